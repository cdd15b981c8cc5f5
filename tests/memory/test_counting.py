"""Counting against the truth: the model built on the CPU, and the cache that it fills when it reads tokens."""

import json
import time
from typing import Any

import pytest
import small_configs
import torch
from transformers import AutoConfig, AutoModelForCausalLM, logging
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from course_utils.memory import apart, configs, counting, formulas, shapes
from course_utils.memory.configs import NotCountedError
from course_utils.memory.counting import CacheLayer

logging.set_verbosity_error()
KINDS = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TOKENS, BATCH = 9, 2  # longer than the windows of the small configurations


def floats(holder: Any, depth: int = 0) -> list[torch.Tensor]:
    """All tensors of numbers in a model's output, however deep."""
    if isinstance(holder, torch.Tensor):
        return [holder] if holder.ndim and holder.is_floating_point() else []
    if depth > 8:
        return []
    if isinstance(holder, dict):
        inside = list(holder.values())
    elif isinstance(holder, list | tuple):
        inside = list(holder)
    elif type(holder).__module__.startswith("transformers."):
        inside = list(vars(holder).values())
    else:
        return []
    return [tensor for value in inside for tensor in floats(value, depth + 1)]


def held_bytes(model: Any) -> int:
    """Bytes that the model keeps for the next token after it has read some."""
    ids = torch.randint(3, 200, (BATCH, TOKENS))
    with torch.no_grad():
        output = dict(model(input_ids=ids, use_cache=True))
    for name in ("logits", "logits_ngram", "last_hidden_state", "hidden_states", "attentions", "router_logits"):
        output.pop(name, None)
    return sum(tensor.nbytes for tensor in floats(output))


def real_model(config: dict, device: str) -> Any:
    """The model with numbers in it (without them on the device "meta"), by transformers alone."""
    made = AutoConfig.for_model(**config)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in small_configs.NOT_BUILT])
def test_what_is_counted_is_what_a_real_model_holds(kind: str) -> None:
    config = small_configs.small(kind)
    counted = counting.count(config, "float32")
    model = real_model(config, "meta" if kind in small_configs.TOO_LARGE else "cpu")
    assert counted.parameters == sum(parameter.numel() for parameter in model.parameters())
    if kind in small_configs.TOO_LARGE:
        return
    may_be_refused = small_configs.NOT_UNDERSTOOD | small_configs.NOT_YET_UNDERSTOOD
    if counted.no_cache and kind in may_be_refused:
        assert repr(kind) in counted.no_cache
        return
    assert kind not in small_configs.NOT_UNDERSTOOD
    assert counted.no_cache == ""
    assert counted.cache_bytes(TOKENS, BATCH) == held_bytes(model)


@pytest.mark.parametrize("kind", sorted(small_configs.NOT_BUILT.intersection(CONFIG_MAPPING.keys())))
def test_what_transformers_cannot_build_is_refused_by_name(kind: str) -> None:
    try:
        config = CONFIG_MAPPING[kind]().to_dict()
    except Exception:  # whatever a kind raises that has no default configuration
        config = {}
    with pytest.raises(NotCountedError, match=kind):
        counting.count({"num_hidden_layers": 2, **config, "model_type": kind})


SAMPLED = ["gemma3", "gemma3n_text", "gpt2", "bart", "mamba2", "jamba", "qwen3_next", "phimoe"]


@pytest.mark.parametrize("kind", SAMPLED)
def test_default_sizes_are_counted_in_seconds(kind: str) -> None:
    """All kinds were compared so once; these stand for them, because all of them take many minutes."""
    default = CONFIG_MAPPING[kind]()
    began = time.process_time()
    counted = counting.count(default.to_dict())
    assert time.process_time() - began < 20  # a few on a quiet machine
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(default, dtype=torch.bfloat16)
    assert counted.parameters == sum(parameter.numel() for parameter in built.parameters())
    assert counted.no_cache == "" and counted.cache_bytes(1) > 0


# ---------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", list(shapes.kinds()))
def test_the_formula_and_counting_agree_to_the_last_parameter(kind: str, seed: int) -> None:
    config = small_configs.small(kind, seed)
    agree(config)


@pytest.mark.parametrize("kind", list(shapes.kinds()))
def test_they_agree_about_default_sizes(kind: str) -> None:
    agree(CONFIG_MAPPING[kind]().to_dict())


def agree(config: dict) -> None:
    shape, counted = shapes.from_config(config), counting.count(config)
    assert shapes.parameter_count(shape) == counted.parameters
    for tokens in (1, 4, 5, 9, 1000, 300_000):
        assert formulas.kv_cache_bytes(shape, tokens, 3) == counted.cache_bytes(tokens, 3)
    embeddings = 0 if shape.tied else shape.vocab * shape.hidden
    # a token asks some experts, and their biases; the formula's count of what is active is the one that was counted
    assert shapes.parameter_count(shape, active=True) - embeddings == counted.used


@pytest.mark.parametrize("setting", ["attention_bias", "mlp_bias"])
def test_biases_are_counted_by_the_formula(setting: str) -> None:
    for kind in ("llama", "granite", "qwen3", "deepseek_v3"):
        agree(small_configs.small(kind) | {setting: True})


def test_what_papers_say() -> None:
    """gpt-oss: table 1 of its model card (arXiv 2508.10925). DeepSeek-V3: the abstract of arXiv 2412.19437."""
    gpt_oss = shapes.from_config(CONFIG_MAPPING["gpt_oss"]().to_dict())
    assert shapes.parameter_count(gpt_oss) / 1e9 == pytest.approx(116.83, abs=0.01)
    read = shapes.parameter_count(gpt_oss, active=True) - gpt_oss.vocab * gpt_oss.hidden
    assert read / 1e9 == pytest.approx(5.13, abs=0.01)
    deepseek = shapes.from_config(CONFIG_MAPPING["deepseek_v3"]().to_dict())
    assert shapes.parameter_count(deepseek) / 1e9 == pytest.approx(671, abs=0.5)
    assert shapes.parameter_count(deepseek, active=True) / 1e9 == pytest.approx(37, rel=0.03)


# ---------------------------------------------------------------------------------------------- towers


def test_a_vision_tower_is_counted_aloud() -> None:
    counted = counting.count(small_configs.small("gemma3"))
    (name, size), *others = counted.towers
    assert "vision" in name and not others and 0 < size < counted.parameters
    assert any(f"{size:,}" in note and name in note for note in counted.notes)
    assert counted.used == counted.parameters - size  # its table of embeddings is its head, and so is read


def test_a_vision_tower_that_is_left_out_is_left_out_aloud() -> None:
    config = small_configs.small("llama4")
    counted = counting.count(config)
    assert isinstance(config["vision_config"], dict) and not counted.towers
    assert any("vision_config left out" in note for note in counted.notes)


def test_what_reads_pictures_and_writes_text_is_counted_too() -> None:
    config = {"model_type": "llava", "num_hidden_layers": 2, "text_config": small_configs.small("llama")}
    config["vision_config"] = {"model_type": "clip_vision_model", "hidden_size": 32, "num_hidden_layers": 2}
    config["vision_config"] |= {"num_attention_heads": 4, "intermediate_size": 48, "image_size": 28, "patch_size": 14}
    counted = counting.count(config)
    assert counted.built == "LlavaForConditionalGeneration" and counted.towers


# ---------------------------------------------------------------------------------------------- bad input

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA |= {"intermediate_size": 96, "vocab_size": 300}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model_type": "my_model", "auto_map": {"AutoModel": "evil.Evil"}}, "'my_model'.*never run here"),
        ({"model_type": None}, "None"),
        ({"model_type": ["llama"]}, "no kind of model"),
        ({"model_type": "clip"}, "not as a model that writes text"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers in the configuration is 1000000000"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings"),
        ({"hidden_size": 2**41}, "hidden_size"),
        ({"hidden_size": "64"}, "'llama'.*hidden_size"),
        ({"hidden_size": -64}, "'llama'"),
        ({"num_attention_heads": 0}, "'llama'"),
        ({"num_attention_heads": 5}, "'llama'"),
        ({"vocab_size": 1.5}, "'llama'"),
        ({"hidden_act": "no such function"}, "'llama'"),
        ({"rope_parameters": [[[[1]]]]}, "'llama'"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(wrong: dict, said: str) -> None:
    began = time.process_time()
    with pytest.raises(NotCountedError, match=said):
        counting.count(LLAMA | wrong)
    assert time.process_time() - began < 10


def test_what_is_no_configuration_is_refused() -> None:
    for wrong in (None, [], "llama", 7):
        with pytest.raises(NotCountedError, match="a dictionary"):
            counting.count(wrong)
    with pytest.raises(NotCountedError, match="is it the whole file"):
        counting.count({"model_type": "llama"})
    endless: dict = {}
    for _ in range(100):
        endless = {"inside": endless}
    with pytest.raises(NotCountedError, match="without end"):
        counting.count(LLAMA | endless)


def test_nothing_is_fetched_and_no_code_is_named() -> None:
    """What a configuration could say to make a library load something is gone before the library sees it."""
    said = {"auto_map": {"AutoConfig": "somebody/else--code.Config"}, "attn_implementation": "kernels-community/x"}
    said |= {"_attn_implementation": "kernels-community/x", "quantization_config": {"quant_method": "fp8"}}
    made = configs.configuration(LLAMA | said)
    assert "kernels-community" not in str(made.to_dict()) and "auto_map" not in made.to_dict()
    assert made._attn_implementation != "kernels-community/x"
    counted = counting.count(LLAMA | said)
    assert counted.parameters == counting.count(LLAMA).parameters
    assert any("quantised" in note for note in counted.notes)


def test_a_layer_with_a_window_stops_growing() -> None:
    layer = CacheLayer(a_token=10, most=4, fixed=3)
    assert [layer.bytes(tokens) for tokens in (1, 4, 5, 1000)] == [13, 43, 43, 43]


# ---------------------------------------------------------------------------------------------- a process of its own


def test_a_process_of_its_own_gives_the_same_and_ends_in_time() -> None:
    config = small_configs.small("gemma3")
    assert apart.count_apart(config, seconds=500) == counting.count(json.loads(json.dumps(config)))
    with pytest.raises(NotCountedError, match="transformers' 'llama'"):
        apart.count_apart(LLAMA | {"num_attention_heads": 0}, seconds=500)
    with pytest.raises(NotCountedError, match="could not be counted in 0.2 s"):
        apart.count_apart(LLAMA, seconds=0.2)
