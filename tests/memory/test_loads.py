"""The longest context and the fastest text, by hand and against what was counted."""

import dataclasses

import pytest
import small_configs

from course_utils.memory import counting, fit, formulas, loads, shapes
from course_utils.memory.configs import NotCountedError
from course_utils.memory.shapes import GIB
from course_utils.models import gguf_file, gguf_header
from course_utils.models.gguf_header import Header, Tensor
from course_utils.models.hardware import Hardware
from course_utils.settings import MODELS


def test_tokens_a_second_are_bandwidth_over_bytes() -> None:
    load = loads.of_shape(shapes.architecture("mistral-7b"), "inference-fp16")
    read = 2 * (7_241_732_096 - 32000 * 4096)  # all but the table of embeddings
    cache = 2 * 32 * 1024 * 1000 * 2
    assert load.read == read
    assert load.tokens_a_second(1008, 1000) == pytest.approx(1008e9 / (read + cache))


def test_a_mixture_reads_the_experts_that_are_asked() -> None:
    shape = shapes.architecture("mixtral-8x7b")
    load = loads.of_shape(shape, "inference-fp16")
    assert load.read == 2 * (shapes.parameter_count(shape, active=True) - shape.vocab * shape.hidden)
    assert load.weights == 2 * 46_702_792_704


@pytest.mark.parametrize("method", ["inference-fp32", "inference-fp16", "inference-nf4", "inference-q4_k_m"])
@pytest.mark.parametrize("name", ["mistral-7b", "llama-3.2-1b"])
def test_a_longest_context_fits_and_one_token_more_does_not(name: str, method: str) -> None:
    load = loads.of_shape(shapes.architecture(name), method)
    longest = load.longest_context(24)
    assert longest == 0 if name == "mistral-7b" and method == "inference-fp32" else longest > 1000
    assert load.needed(longest) <= 24 < load.needed(longest + 1) or longest == 0
    assert load.weights >= load.read > 0


def test_with_a_window_a_context_can_be_any_length() -> None:
    shape = dataclasses.replace(shapes.architecture("mistral-7b"), window=4096, windowed=32)
    load = loads.of_shape(shape, "inference-fp16")
    assert load.longest_context(24) == loads.LONGEST and load.longest_context(10) == 0
    assert load.cache(4096) == load.cache(10**6) == 2 * 32 * 1024 * 2 * 4095


@pytest.mark.parametrize("method", ["inference-fp16", "inference-fp32", "inference-nf4", "inference-int8"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "deepseek_v3"])
def test_formula_and_counting_agree_about_loads(kind: str, method: str) -> None:
    if kind == "deepseek_v3" and method in ("inference-nf4", "inference-int8"):
        pytest.skip("the formula quantises experts; bitsandbytes, which is counted, does not")
    config = small_configs.small(kind)
    by_formula = loads.of_shape(shapes.from_config(config), method)
    counted = counting.count(config, "float32" if method == "inference-fp32" else "bfloat16")
    by_counting = loads.of_counted(counted, method)
    assert by_formula.weights == pytest.approx(by_counting.weights, rel=1e-9)
    assert by_formula.read == pytest.approx(by_counting.read, rel=1e-9)
    assert by_formula.cache(7) == by_counting.cache(7)


def test_parts_are_those_of_the_formula() -> None:
    config = small_configs.small("qwen3")
    shape, counted = shapes.from_config(config), counting.count(config)
    for method in ("lora", "qlora", "full", "inference-fp16", "inference-nf4"):
        expected = formulas.estimate(shape, method, seq=100, batch=2)
        parts = loads.parts(counted, method, 100, 2)
        for name, field in [("weights", "weights"), ("adapters", "adapters"), ("gradients", "gradients")]:
            assert parts[name] == pytest.approx(getattr(expected, field), rel=1e-9)
        assert parts["optimiser state"] == pytest.approx(expected.optimiser_state)
        assert parts["kv cache"] == pytest.approx(expected.kv_cache)


def test_what_trains_keeps_no_context() -> None:
    shape = shapes.architecture("mistral-7b")
    with pytest.raises(ValueError, match="qlora trains"):
        loads.of_shape(shape, "qlora")
    with pytest.raises(ValueError, match="No method"):
        loads.of_shape(shape, "inference-fp7")
    counted = counting.count(small_configs.small("llama"))
    with pytest.raises(ValueError, match="count it with dtype=float32"):
        loads.of_counted(counted, "inference-fp32")


def test_every_card_has_a_bandwidth_and_is_found_by_its_name() -> None:
    for card in shapes.gpus().values():
        assert 200 < card.bandwidth < 10_000
        assert fit.card_of(card) is card
    machine = Hardware("cuda", "float16", "", ram_total_gb=12, ram_free_gb=10, cores=2, gpu="Tesla T4")
    assert fit.card_of(machine) is fit.gpu("t4")
    longer = dataclasses.replace(machine, gpu="NVIDIA GeForce RTX 4090")
    assert fit.card_of(longer) is fit.gpu("rtx4090")
    assert fit.card_of(dataclasses.replace(machine, gpu="")) is None
    assert fit.card_of(dataclasses.replace(machine, gpu="Voodoo 2")) is None


@pytest.mark.parametrize(
    ("detected", "gib", "expected"),
    [
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),  # Colab's
        ("NVIDIA A100 80GB PCIe", 79.2, "a100-80"),
        ("NVIDIA GeForce RTX 3060", 11.6, "rtx3060"),
        ("NVIDIA L4", 22.0, "l4"),
        ("NVIDIA L40S", 44.4, None),
        ("NVIDIA GeForce RTX 3060 Ti", 7.7, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 15.6, None),
        ("NVIDIA GeForce RTX 4060 Ti", 15.7, "rtx4060ti"),
        ("NVIDIA GH200 480GB", 95.0, None),
    ],
)
def test_a_card_is_never_taken_for_one_of_a_similar_name(detected: str, gib: float, expected: str | None) -> None:
    machine = Hardware("cuda", "float16", "", ram_total_gb=12, ram_free_gb=11, cores=2, gpu=detected, gpu_total_gb=gib)
    assert fit.card_of(machine) is (fit.gpu(expected) if expected else None)


def test_a_card_that_is_too_old_to_be_used_lends_no_bandwidth() -> None:
    machine = Hardware("cpu", "float32", "", ram_total_gb=12, ram_free_gb=11, cores=2, gpu="Tesla P100 is too old")
    assert fit.card_of(machine) is None


# ---------------------------------------------------------------------------------------------- GGUF


def test_a_gguf_file_holds_what_its_model_needs(tmp_path) -> None:
    file = gguf_file.write_gguf(MODELS / "prisma-lm", tmp_path / "prisma.gguf")
    load = loads.of_header(gguf_header.read(file), "prisma")
    shape = shapes.architecture("prisma-lm")
    assert load.cache(100) == formulas.kv_cache_bytes(shape, 100)
    assert load.read == load.weights  # its head is its table of embeddings, so all of it is read
    norms = shape.hidden * (2 * shape.layers + 1)  # in 32 bits, the rest in 16
    assert load.weights == 2 * shapes.parameter_count(shape) + 2 * norms
    assert load.context == 1024


def header(kind: str = "llama", **about: object) -> Header:
    """A header as files have it, of a model with 4 layers."""
    said = {"block_count": 4, "embedding_length": 64, "attention.head_count": 8, "attention.head_count_kv": 2}
    said |= {name.replace("__", "."): value for name, value in about.items()}
    metadata = {"general.architecture": kind} | {f"{kind}.{name}": value for name, value in said.items()}
    tensors = (Tensor("token_embd.weight", (64, 100), "F16", 12800), Tensor("output.weight", (64, 100), "F16", 12800))
    return Header(metadata, (*tensors, Tensor("blk.0.ffn_up_exps.weight", (64, 32, 8), "F16", 32768)))


def test_a_token_reads_one_row_of_embeddings_and_its_experts() -> None:
    load = loads.of_header(header(expert_count=8, expert_used_count=2), "a mixture")
    assert load.weights == 2 * 12800 + 32768
    assert load.read == 12800 + 32768 * 2 / 8
    with pytest.raises(NotCountedError, match="expert_used_count"):
        loads.of_header(header(), "a mixture")


def test_the_cache_of_a_gguf_file() -> None:
    plain = loads.gguf_cache(header())
    assert [layer.bytes(10) for layer in plain] == [2 * 2 * (8 + 8) * 10] * 4
    wide = loads.gguf_cache(header(attention__key_length=32, attention__value_length=16))
    assert wide[0].bytes(10) == 2 * 2 * (32 + 16) * 10
    differing = loads.gguf_cache(header(attention__head_count_kv=[2, 0, 1, 2]))
    assert [layer.a_token for layer in differing] == [64, 0, 32, 64]
    windows = loads.gguf_cache(header("gemma2", attention__sliding_window=1000))
    assert [layer.most for layer in windows] == [1536, None, 1536, None]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "mamba"}, "'mamba' file are counted; its cache is not known"),
        ({"kind": "deepseek2"}, "Ask for the config.json"),
        ({"block_count": 0}, "lacks block_count"),
        ({"block_count": "4"}, "lacks block_count"),
        ({"attention__head_count": None}, "head_count"),
        ({"attention__head_count_kv": [1, 2]}, "does not fit its 4 layers"),
        ({"attention__head_count_kv": -1}, "does not fit"),
        ({"block_count": 10**9}, "lacks block_count"),
    ],
)
def test_a_header_that_does_not_say_enough_is_refused(wrong: dict, said: str) -> None:
    with pytest.raises(NotCountedError, match=said):
        loads.gguf_cache(header(**wrong))


def test_what_is_needed_has_the_margin_of_an_estimate() -> None:
    assert loads.Load("x", GIB, GIB, lambda tokens: 0).needed(1) == pytest.approx(0.6 + 1.05)
