"""The recipe in other tools' words: every key was read somewhere, every number is the recipe's, nothing is run."""

import ast
import dataclasses
import json
import re

import pytest

from course_utils import recipes_elsewhere as elsewhere
from course_utils.finetuning import RECIPES

RECIPE = RECIPES["full"]
DATA = "data/train.jsonl"
CONFIGS = {tool: make(RECIPE, "some/model", DATA) for tool, make in elsewhere.TOOLS.items()}


@pytest.mark.parametrize("tool", elsewhere.TOOLS)
def test_every_key_was_read_in_the_tools_repository(tool):
    assert elsewhere.unknown(tool, CONFIGS[tool]) == []


@pytest.mark.parametrize(
    "tool, place",
    [
        ("axolotl", ""),
        ("axolotl", "datasets"),
        ("llama-factory", ""),
        ("autotrain", "params"),
        ("ludwig", "adapter"),
        ("autotrain", "data"),
    ],
)
def test_a_misspelt_key_is_named(tool, place):
    config = json.loads(json.dumps(CONFIGS[tool]))
    inside = config[place] if place else config
    (inside[0] if isinstance(inside, list) else inside)["lora_rnak"] = 1
    assert elsewhere.unknown(tool, config) == [f"{place}.lora_rnak".lstrip(".")]


def test_a_misspelt_argument_is_named():
    config = {name: dict(arguments) for name, arguments in CONFIGS["unsloth"].items()}
    config["FastLanguageModel.get_peft_model"]["rank"] = 1
    config["SFTConfig"]["max_seq_length"] = 1  # gone from TRL, and still in many tutorials
    assert elsewhere.unknown("unsloth", config) == ["FastLanguageModel.get_peft_model.rank", "SFTConfig.max_seq_length"]


def test_an_unknown_tool_is_named():
    with pytest.raises(ValueError, match="'axolotI' is none of the tools.*axolotl, llama-factory"):
        elsewhere.unknown("axolotI", CONFIGS["axolotl"])


def test_sources_can_be_looked_up():
    for entry in elsewhere.sources():
        assert re.fullmatch(r"[0-9a-f]{40}", entry["commit"]) and entry["repository"].count("/") == 1
        assert entry["tool"] in elsewhere.TOOLS and entry["path"] and entry["keys"].split()


@pytest.mark.parametrize("i, tool", list(enumerate(elsewhere.TOOLS)))
def test_the_numbers_are_the_recipes(i, tool):
    want = {"learning rate": RECIPE.learning_rate, "epochs": RECIPE.epochs, "at once": RECIPE.at_once}
    want |= {"longest": RECIPE.max_length, "rank": RECIPE.rank, "alpha": RECIPE.alpha}
    for name, value in want.items():
        assert elsewhere.place(CONFIGS[tool], elsewhere.PLACES[name][i]) == value, name
    accumulated = elsewhere.place(CONFIGS[tool], elsewhere.PLACES["accumulated"][i])
    assert accumulated * RECIPE.at_once == RECIPE.batch == 8 and accumulated == 2


def test_every_place_is_there():
    for name, paths in elsewhere.PLACES.items():
        for tool, path in zip(elsewhere.TOOLS, paths, strict=True):
            assert not path or elsewhere.place(CONFIGS[tool], path) is not None, (name, tool)


def test_half_an_epoch_is_refused_where_it_cannot_be_said():
    half = dataclasses.replace(RECIPE, epochs=1.5)
    assert elsewhere.axolotl(half, "m", DATA)["num_epochs"] == 1.5
    for make in (elsewhere.autotrain, elsewhere.ludwig):
        with pytest.raises(ValueError, match="whole epochs"):
            make(half, "m", DATA)


@pytest.mark.parametrize("tool", elsewhere.TOOLS)
def test_files_read_back_as_they_were_meant(tool, tmp_path):
    import yaml

    files = elsewhere.save(tool, CONFIGS[tool], DATA, tmp_path)
    text = files[0].read_text()
    if tool == "unsloth":
        calls = {ast.unparse(c.func): c for c in ast.walk(ast.parse(text)) if isinstance(c, ast.Call)}
        for name, arguments in CONFIGS[tool].items():
            given = {k.arg: ast.literal_eval(k.value) for k in calls[name].keywords}
            assert given == arguments
    else:
        assert yaml.safe_load(text) == CONFIGS[tool]
        assert isinstance(
            elsewhere.place(yaml.safe_load(text), elsewhere.PLACES["learning rate"][list(elsewhere.TOOLS).index(tool)]),
            float,
        )


def test_llama_factory_finds_its_data(tmp_path):
    _, info = elsewhere.save("llama-factory", CONFIGS["llama-factory"], DATA, tmp_path)
    entry = json.loads(info.read_text())[CONFIGS["llama-factory"]["dataset"]]
    assert entry["file_name"] == "train.jsonl"
    assert set(entry) <= elsewhere.known()["llama-factory", "dataset_info"]
