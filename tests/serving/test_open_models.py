"""The table of open models: counted sizes are those of the models' makers."""

import pytest

from course_utils.memory import formulas, shapes
from course_utils.serving import open_models


def test_rows_are_whole_newest_first_and_sizes_are_positive():
    rows = open_models.rows()
    assert [row["released"] for row in rows] == sorted((row["released"] for row in rows), reverse=True)
    assert all(float(row["billions"]) > 0 and row["licence"] and row["context"] > 1000 for row in rows)
    families = ("Llama", "Mistral", "Mixtral", "Falcon", "Phi", "Qwen", "Grok-1", "Dolly", "Gemma", "gpt-oss", "OLMo")
    for family in families:
        assert any(row["model"].startswith(family) for row in rows), family


def test_mixtures_have_an_active_part_and_others_none():
    active = {row["model"] for row in open_models.rows() if row["active"]}
    assert active == {"Mixtral 8x7B", "Llama 4 Scout", "gpt-oss 120B", "DeepSeek-V3", "Grok-1"}


PUBLISHED = {"gpt-oss 120B": 116.83, "DeepSeek-V3": 671, "Gemma 3 12B": 1.012 + 10.759, "SmolLM3 3B": 3.08}
PUBLISHED |= {"Llama 3.1 8B": 8.03, "Mixtral 8x7B": 46.7}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_counted_is_what_the_makers_say(name):
    """gpt-oss: arXiv 2508.10925, table 1; DeepSeek-V3: 2412.19437; Gemma 3: 2503.19786, table 1; others: the hub."""
    counted = shapes.parameter_count(open_models.shape_of(name)) / 1e9
    assert counted == pytest.approx(PUBLISHED[name], rel=0.002)


def test_newer_attention_keeps_less():
    """By hand: layers x 2 x heads x width x 2 bytes; DeepSeek-V3: 61 layers of 512 + 64 numbers."""
    first = {name: formulas.kv_cache_bytes(open_models.shape_of(name), 1) for name in ("Qwen3 8B", "DeepSeek-V3")}
    assert first == {"Qwen3 8B": 36 * 2 * 8 * 128 * 2, "DeepSeek-V3": 61 * 576 * 2}
    gemma = open_models.shape_of("Gemma 3 12B")
    assert (gemma.layers, gemma.windowed) == (48, 40)
    assert formulas.kv_cache_bytes(gemma, 32768) == 2 * 8 * 256 * 2 * (8 * 32768 + 40 * 1023)


def test_an_unknown_name_is_refused_and_an_uncounted_one_has_no_shape():
    with pytest.raises(ValueError, match="no open model 'GPT-4'"):
        open_models.shape_of("GPT-4")
    assert open_models.shape_of("Grok-1") is None
