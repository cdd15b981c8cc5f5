"""The recipe in other tools' words: every key was read somewhere, every number is the recipe's, nothing is trained.

Where one of the tools is installed, its own code reads our file, too (the tests with `own_code` in their names).
"""

import ast
import dataclasses
import inspect
import json
import re
from importlib import import_module

import pytest

from course_utils.finetuning import recipes_elsewhere as elsewhere
from course_utils.finetuning.qlora import RECIPES

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


def test_a_place_is_said_in_words():
    assert elsewhere.in_words(CONFIGS["autotrain"], "params.lora_r") == f"lora_r = {RECIPE.rank}"
    assert elsewhere.in_words(CONFIGS["axolotl"], "") == "no key found"
    assert elsewhere.in_words({"layers": ["a", "b"]}, "layers") == "layers = a, b"


def test_a_row_says_where_keys_were_read_and_names_a_mistake():
    row = elsewhere.checked("llama-factory", CONFIGS["llama-factory"] | {"lora_rnak": 16})
    read = [entry for entry in elsewhere.sources() if entry["tool"] == "llama-factory"]
    assert row["unknown keys"] == "lora_rnak" and row["repository"] == read[0]["repository"]
    assert 0 < row["files read"] <= len(read) and read[0]["commit"][:8] in row["commits"]
    assert elsewhere.checked("llama-factory", CONFIGS["llama-factory"])["unknown keys"] == "none"


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


# ---------------------------------------------------------------- the tools' own code, where it is installed
# Each of the five takes a config and a folder, and gives what the tool was handed and what it made of it. The tools
# are no requirements of the course, so they are imported by name.


def _axolotl(config, folder):
    given = import_module("axolotl.utils.dict").DictDefault(config)
    card = {"bf16": True, "fp8": False, "n_gpu": 1, "compute_capability": "sm_80"}  # none is here; checked as for one
    return config, dict(import_module("axolotl.utils.config").validate_config(given, card, {"torch_version": "2.13.0"}))


def _llama_factory(config, folder):
    get_train_args = import_module("llamafactory.hparams").get_train_args
    read = config | {"use_cpu": True}  # or it asks for a card, because of bf16
    get_train_args(read)  # as it reads the YAML file: wrong keys are refused, wrong types are not
    made = get_train_args([f"--{key}={value}" for key, value in read.items()])  # here wrong types are, too
    return read, {key: value for part in made for key, value in vars(part).items()}


def _autotrain(config, folder):
    [file] = elsewhere.save("autotrain", config, DATA, folder)
    parser = import_module("autotrain.parser").AutoTrainConfigParser(str(file))
    made = parser.task_param_map[parser.task](**parser.parsed_config).model_dump()
    return parser.parsed_config, made


def _ludwig(config, folder):
    read = config | {"base_model": str(folder)}  # it asks the hub for a model that is no folder
    return read, import_module("ludwig.schema.model_types.base").ModelConfig.from_dict(read).to_dict()


def _unsloth(config, folder):
    model = import_module("unsloth").FastLanguageModel  # before trl, which it patches
    from trl import SFTConfig

    load, adapt, train = config
    made = {train: vars(SFTConfig(**config[train], use_cpu=True))}
    for name, call in {load: model.from_pretrained, adapt: model.get_peft_model}.items():
        named = inspect.signature(call).parameters  # both have **kwargs, too, for what they do not name
        made[name] = {key: value for key, value in config[name].items() if key in named}
    return config, made


# The tool's package, its function above, and a wrong value: where, the key, the value, a word of the refusal.
OWN_CODE = {
    "axolotl": ("axolotl", _axolotl, ("", "lora_r", "sixteen", "lora_r")),
    "llama-factory": ("llamafactory", _llama_factory, ("", "quantization_method", "bitsandbytes", "invalid choice")),
    "autotrain": ("autotrain", _autotrain, ("params", "epochs", 1.5, "epochs")),
    "ludwig": ("ludwig", _ludwig, ("adapter", "target_modules", "all-linear", "all-linear")),
    "unsloth": ("unsloth", _unsloth, ("SFTConfig", "lr_scheduler_type", "linaer", "linaer")),
}


def _lost(given, made, at=""):
    """The places whose value the tool dropped or changed; what it adds does not count."""
    if isinstance(given, dict) and isinstance(made, dict):
        return [lost for key in given for lost in _lost(given[key], made.get(key, "gone"), f"{at}.{key}")]
    if isinstance(given, list) and isinstance(made, list) and len(given) == len(made):
        return [lost for one, other in zip(given, made, strict=True) for lost in _lost(one, other, at)]
    return [] if made in (given, [given]) else [at.lstrip(".")]  # LLaMA-Factory makes lists of single names


@pytest.fixture(params=OWN_CODE)
def own(request, monkeypatch, tmp_path):
    """(tool, what it makes of a config); skipped without the tool. Nothing is sent, and no card is asked for."""
    monkeypatch.chdir(tmp_path)  # Unsloth leaves a folder where it is imported
    for name in ("UNSLOTH_ALLOW_CPU", "UNSLOTH_DISABLE_STATISTICS", "AXOLOTL_DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    package, read, _ = OWN_CODE[request.param]
    pytest.importorskip(package)
    return request.param, lambda config: read(config, tmp_path)


def _with(config, group, key, value):
    config = json.loads(json.dumps(config))
    (config[group] if group else config)[key] = value
    return config


def test_own_code_takes_every_value_as_it_is(own):
    tool, read = own
    assert _lost(*read(CONFIGS[tool])) == []


def test_own_code_refuses_a_wrong_value(own, capsys):
    tool, read = own
    *wrong, word = OWN_CODE[tool][2]
    with pytest.raises((ValueError, SystemExit)) as refusal:
        read(_with(CONFIGS[tool], *wrong))
    assert word in f"{refusal.value}{capsys.readouterr().err}"


def test_own_code_does_not_know_a_misspelt_key(own):
    """LLaMA-Factory refuses it. The others drop the key or hand it on, and at most warn."""
    tool, read = own
    group = {"unsloth": "FastLanguageModel.get_peft_model"}.get(tool, OWN_CODE[tool][2][0])
    try:
        found = str(_lost(*read(_with(CONFIGS[tool], group, "lora_rnak", 16))))
    except ValueError as refusal:
        found = str(refusal)
    assert "lora_rnak" in found


def test_own_code_of_llama_factory_quantises():
    """It takes any word as quantization_method from a YAML file, and quantises nothing if it does not know it."""
    pytest.importorskip("llamafactory")
    from transformers import PretrainedConfig

    get_train_args = import_module("llamafactory.hparams").get_train_args
    configure = import_module("llamafactory.model.model_utils.quantization").configure_quantization
    made = {}
    for word in ("bnb", "bitsandbytes"):
        settings = get_train_args(CONFIGS["llama-factory"] | {"quantization_method": word, "use_cpu": True})[0]
        configure(PretrainedConfig(), None, settings, True, made.setdefault(word, {}))
    assert CONFIGS["llama-factory"]["quantization_method"] == "bnb" and made["bitsandbytes"] == {}
    made = made["bnb"]["quantization_config"]
    assert made.load_in_4bit and made.bnb_4bit_quant_type == "nf4" and made.bnb_4bit_use_double_quant


def test_own_code_of_llama_factory_finds_the_data_and_the_template(tmp_path):
    pytest.importorskip("llamafactory")
    get_dataset_list = import_module("llamafactory.data.parser").get_dataset_list
    config = CONFIGS["llama-factory"]
    elsewhere.save("llama-factory", config, DATA, tmp_path)
    [data] = get_dataset_list([config["dataset"]], str(tmp_path))
    assert (data.dataset_name, data.formatting, data.messages) == ("train.jsonl", "sharegpt", "conversations")
    assert config["template"] in import_module("llamafactory.data.template").TEMPLATES  # not looked up on reading
    with pytest.raises(ValueError, match="Undefined dataset"):
        get_dataset_list(["trian"], str(tmp_path))


def test_the_accepting_versions_are_on_record():
    assert set(elsewhere.accepted()) == set(elsewhere.TOOLS)
    for entry in elsewhere.accepted().values():
        assert re.fullmatch(r"\d+(\.\d+)+", entry["version"]) and entry["by"] and entry["date"].year >= 2026
    for entry in elsewhere.key_lists()["newer"]:
        assert entry["version"] == elsewhere.accepted()[entry["tool"]]["version"]  # its keys were seen in that one
