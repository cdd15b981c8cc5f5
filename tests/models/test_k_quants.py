"""llama.cpp's number formats through its own code, and a GGUF file that holds them."""

import sys
from types import SimpleNamespace

import gguf
import pytest
import torch

from course_utils.models import gguf_file, k_quants, llama_cpp
from course_utils.models.gguf_file import write_gguf
from course_utils.settings import MODELS

FOLDER = MODELS / "prisma-lm"


@pytest.fixture(autouse=True)
def able(request):
    if "missing" in request.node.name:
        return
    pytest.importorskip("xllamacpp")
    if sys.platform == "win32":
        pytest.skip("xllamacpp hides the function there")


@pytest.fixture(scope="module")
def weights():
    return torch.randn(8, 512, generator=torch.Generator().manual_seed(2))


def test_more_bits_lose_less(weights) -> None:
    assert k_quants.why_not() == ""
    errors = [(k_quants.through(weights, kind) - weights).norm() / weights.norm() for kind in k_quants.BITS]
    assert errors == sorted(errors)
    assert errors[0] < 0.01 and errors[-1] < 0.4


@pytest.mark.parametrize("kind", k_quants.BITS)
def test_the_bytes_are_as_many_as_the_table_says(weights, kind) -> None:
    assert 8 * k_quants.packed(weights, kind).nbytes == k_quants.BITS[kind] * weights.numel()


@pytest.mark.parametrize("kind", k_quants.PLAIN)
def test_llama_cpp_rounds_as_the_package_gguf_does(weights, kind) -> None:
    by_gguf = k_quants.packed(weights, kind)
    by_llama_cpp = k_quants.by_llama_cpp(weights, kind)
    assert (by_gguf == by_llama_cpp).mean() > 0.99  # a scale may differ in its last bit


def test_what_cannot_be_packed_is_told(weights) -> None:
    with pytest.raises(ValueError, match="no format 'Q9'; there are Q8_0, Q6_K"):
        k_quants.packed(weights, "Q9")
    with pytest.raises(ValueError, match="Q4_K packs blocks of 256 weights, and a row has 96: take Q8_0"):
        k_quants.packed(torch.zeros(2, 96), "Q4_K")


def test_a_missing_package_is_told_and_the_plain_formats_do_without(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp.xllamacpp", None)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    k_quants.packer.cache_clear()
    assert "k-quants need the package xllamacpp" in k_quants.why_not()
    with pytest.raises(RuntimeError, match="or take Q8_0 or Q4_0"):
        k_quants.packed(torch.zeros(2, 256), "Q4_K")
    assert k_quants.packed(torch.zeros(2, 256), "Q8_0").nbytes == 2 * 256 * 8.5 / 8
    k_quants.packer.cache_clear()


def test_a_missing_function_is_told(monkeypatch) -> None:
    """A package whose compiled part is another file: nothing to call in it."""
    nothing = SimpleNamespace(__file__=gguf.__file__)
    monkeypatch.setitem(sys.modules, "xllamacpp.xllamacpp", nothing)
    monkeypatch.setitem(sys.modules, "xllamacpp", SimpleNamespace(xllamacpp=nothing))
    k_quants.packer.cache_clear()
    assert "hides the function that makes k-quants: take Q8_0" in k_quants.why_not()
    k_quants.packer.cache_clear()


def test_a_file_in_4_bits_holds_what_the_format_keeps(tmp_path) -> None:
    from safetensors.torch import load_file

    path = write_gguf(FOLDER, tmp_path / "model.gguf", "q4_k_m")
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    up = read["blk.3.ffn_up.weight"]
    assert up.tensor_type.name == "Q4_K" and read["token_embd.weight"].tensor_type.name == "Q6_K"
    weight = load_file(FOLDER / "model.safetensors")["model.layers.3.mlp.up_proj.weight"]
    kept = k_quants.unpacked(up.data.copy(), "Q4_K")
    assert torch.equal(kept, k_quants.through(weight, "Q4_K"))
    assert gguf_file.gguf_name("model.layers.3.mlp.up_proj.weight") == "blk.3.ffn_up.weight"


@pytest.mark.parametrize("bits", ["f16", "q8_0"])
def test_a_file_of_any_format_is_run_and_timed(tmp_path, bits) -> None:
    """8 bits write what 16 do; the clock's numbers are those of tokens a second."""
    path = write_gguf(FOLDER, tmp_path / "model.gguf", bits)
    engine = llama_cpp.Engine(path, window=128)
    ids = [50, 60, 70, 80, 90, 100, 110, 120] * 4
    reading, writing = engine.speed(ids, 8)
    assert 1 < writing < 1e5 and 1 < reading < 1e6
    assert engine.write(ids, 4)


def test_a_stand_in_is_as_large_as_it_says_and_answers(tmp_path) -> None:
    path = gguf_file.write_stand_in(FOLDER, tmp_path / "model.gguf", "q2_k", width=256, layers=2)
    weights = 2 * 13 * 256 * 256
    assert 0.9 < path.stat().st_size / (weights * 2.625 / 8 + 2 * 256 * 1000) < 2
    reading, writing = llama_cpp.Engine(path, window=64).speed([30, 40, 50, 60], 4)
    assert reading > 0 and writing > 0
