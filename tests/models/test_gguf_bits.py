"""GGUF in fewer bits: which tensor gets which format, and what the file weighs."""

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
