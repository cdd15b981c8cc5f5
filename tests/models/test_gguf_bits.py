"""GGUF in fewer bits: which tensor gets which format, sizes, and how near the rounded numbers are."""

import sys
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

from course_utils.models import bundled, gguf_bits, gguf_file, gguf_header

FOLDER = bundled.folder("prisma-lm")


def test_a_mixed_file_spends_more_bits_where_llama_cpp_does():
    """Q4_K_M of Llama 2 7B, 32 layers: its quantise tool gives Q6_K to layers 0-3, every third one, and 28-31."""
    finer = [n for n in range(32) if gguf_bits.format_of(f"blk.{n}.ffn_down.weight", 32, "q4_k_m") == "Q6_K"]
    assert finer == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert gguf_bits.format_of("blk.0.attn_v.weight", 32, "q4_k_m") == "Q6_K"
    assert gguf_bits.format_of("blk.0.attn_q.weight", 32, "q4_k_m") == "Q4_K"
    assert gguf_bits.format_of("token_embd.weight", 32, "q4_k_m") == "Q6_K"
    assert gguf_bits.format_of("token_embd.weight", 32, "q8_0") == "Q8_0"
    with pytest.raises(ValueError, match="no GGUF format 'q3'"):
        gguf_bits.format_of("", 32, "q3")


BITS = {"Q8_0": (8.5, 0.01), "Q5_0": (5.5, 0.07), "Q4_0": (4.5, 0.14), "Q6_K": (6.5625, 0.035), "Q4_K": (4.5, 0.12)}
BITS |= {"Q2_K": (2.625, 0.45)}


@pytest.mark.parametrize("form", BITS)
def test_rounded_rows_have_their_size_and_are_near_the_numbers(form):
    if form.endswith("_K"):
        pytest.importorskip("xllamacpp")
    rows = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    packed, kind = gguf_bits.rounded(rows, form)
    bits, error = BITS[form]
    assert packed.nbytes * 8 == bits * rows.size
    back = gguf.quants.dequantize(packed, kind)
    off = np.sqrt(np.mean((back - rows) ** 2))
    assert error / 4 < off < error


def test_rows_that_do_not_fit_into_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks of 256 numbers, and these rows have 96: take q8_0"):
        gguf_bits.rounded(np.zeros((2, 96), np.float32), "Q4_K")


def test_a_file_holds_the_formats_that_it_is_called_after(tmp_path):
    pytest.importorskip("xllamacpp")
    sizes = {}
    for bits in ("f16", "q8_0", "q4_k_m"):
        header = gguf_header.read(gguf_file.write_gguf(FOLDER, tmp_path / f"{bits}.gguf", bits))
        sizes[bits] = header.weight_bytes
        if bits == "q4_k_m":
            formats = {tensor.name: tensor.format for tensor in header.tensors}
    assert formats["token_embd.weight"] == formats["blk.5.ffn_down.weight"] == "Q6_K"
    assert formats["blk.1.attn_q.weight"] == "Q4_K" and formats["output_norm.weight"] == "F32"
    assert sizes["f16"] / sizes["q8_0"] == pytest.approx(16 / 8.5, rel=0.01)
    assert 3.2 < sizes["f16"] / sizes["q4_k_m"] < 3.6


def test_without_llama_cpp_the_k_formats_name_what_else_there_is(monkeypatch):
    rows = np.zeros((2, 256), np.float32)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ValueError, match="Q4_K needs the package xllamacpp.*take q8_0"):
        gguf_bits.rounded(rows, "Q4_K")
    nothing = SimpleNamespace(xllamacpp=SimpleNamespace(__file__=gguf.__file__))
    monkeypatch.setitem(sys.modules, "xllamacpp", nothing)
    with pytest.raises(ValueError, match="does not offer Q4_K"):
        gguf_bits.rounded(rows, "Q4_K")
    assert gguf_bits.rounded(rows, "Q8_0")[0].nbytes == 2 * 256 * 8.5 / 8
