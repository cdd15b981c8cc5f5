"""Simulated steps of models that were counted, and of kinds that only the newer formulas know."""

import pytest
import small_configs

from course_utils.memory import counting, formulas, shapes, simulate
from course_utils.memory.shapes import GIB


def few_layers(kind: str, layers: int) -> dict:
    """A kind's default configuration with fewer layers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[kind](num_hidden_layers=layers).to_dict()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text", "olmo2", "smollm3"])
def test_the_formula_is_near_the_simulated_peak_of_newer_kinds(kind: str, method: str) -> None:
    layers = 6 if kind == "gemma3_text" else 3  # every sixth of Gemma's looks at all tokens
    shape = shapes.from_config(few_layers(kind, layers))
    simulated = simulate.simulate(shape, method, seq=1024).peak
    assert formulas.estimate(shape, method, seq=1024).tensors == pytest.approx(simulated, rel=0.1)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text", "olmo2", "smollm3"])
def test_the_formula_is_on_the_safe_side_at_inference(kind: str) -> None:
    shape = shapes.from_config(few_layers(kind, 4))
    simulated = simulate.simulate(shape, "inference-fp16", seq=1024).peak
    assert simulated <= formulas.estimate(shape, "inference-fp16", seq=1024).tensors <= 1.2 * simulated


@pytest.mark.parametrize("kind", ["gpt2", "qwen3_moe", "falcon_h1", "gpt_oss"])
def test_what_was_counted_is_what_a_simulation_holds(kind: str) -> None:
    counted = counting.count(small_configs.small(kind))
    found = simulate.simulate(counted, "inference-fp16", seq=32)
    weights = found.at_rest["weights"] * GIB
    assert 2 * counted.parameters <= weights <= 2.2 * counted.parameters + 10**6  # and tables of positions
    assert found.peak > found.rest


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_counted_model_is_trained_with_the_adapters_that_were_counted() -> None:
    counted = counting.count(small_configs.small("gpt2"))
    found = simulate.simulate(counted, "lora", seq=32)
    adapters = sum(16 * (inputs + outputs) * number for inputs, outputs, number in counted.linear)
    assert found.at_rest["adapters"] * GIB == 4 * adapters
    assert found.at_rest["optimiser"] * GIB == pytest.approx(8 * adapters, rel=0.01)


def test_what_cannot_run_without_numbers_is_refused_by_name() -> None:
    counted = counting.count(small_configs.small("jetmoe"))
    with pytest.raises(ValueError, match="'jetmoe' can't be simulated"):
        simulate.simulate(counted, "inference-fp16", seq=32)
