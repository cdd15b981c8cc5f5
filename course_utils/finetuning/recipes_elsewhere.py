"""One fine-tuning recipe of Unit 7.5, written for five other tools, and checked against the keys that they take.

The tools are not run here: they want an NVIDIA card, or packages that do not live beside the course's. What is
checked everywhere is that each key exists. recipes_elsewhere.toml says in which file of which commit it was read, and
which version of each tool has read our file. To repeat that, in an environment with the tool, pytest and this folder
on PYTHONPATH: `python -m pytest tests/test_recipes_elsewhere.py -k own_code -rs`.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course_utils.finetuning.qlora import Recipe

KEYS = Path(__file__).with_suffix(".toml")
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _accumulate(recipe: Recipe) -> int:
    return max(1, recipe.batch // recipe.at_once)


def _whole_epochs(recipe: Recipe, tool: str) -> int:
    if recipe.epochs != int(recipe.epochs):
        raise ValueError(f"{tool} counts whole epochs, and the recipe has {recipe.epochs}: round it yourself.")
    return int(recipe.epochs)


# ---------------------------------------------------------------- five configs, as nested dictionaries


def axolotl(recipe: Recipe, base: str, data: str) -> dict:
    """The YAML file for `axolotl train`. `data`: JSON lines with `messages`."""
    source = {"path": data, "ds_type": "json", "type": "chat_template", "field_messages": "messages"}
    source["roles_to_train"] = ["assistant"]  # the loss counts on the replies only
    return {
        "base_model": base,
        "load_in_4bit": True,
        "adapter": "qlora",
        "lora_r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        "datasets": [source],
        "sequence_len": recipe.max_length,
        "micro_batch_size": recipe.at_once,
        "gradient_accumulation_steps": _accumulate(recipe),
        "num_epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler": "linear",
        "warmup_steps": 5,
        "optimizer": "paged_adamw_8bit",
        "gradient_checkpointing": recipe.checkpointing,
        "bf16": "auto",
        "seed": recipe.seed,
        "output_dir": "out",
    }


def llama_factory(recipe: Recipe, base: str, data: str) -> dict:
    """The YAML file for `llamafactory-cli train`. `data` is a name in its dataset_info.json (`dataset_info`)."""
    file = Path(data)
    return {
        "model_name_or_path": base,
        "quantization_method": "bnb",  # another word, even the older "bitsandbytes", is taken, and nothing quantised
        "quantization_bit": 4,
        "quantization_type": "nf4",
        "double_quantization": True,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "lora_target": "all",
        "dataset": file.stem,
        "dataset_dir": str(file.parent),
        "template": "mistral",
        "train_on_prompt": False,
        "cutoff_len": recipe.max_length,
        "per_device_train_batch_size": recipe.at_once,
        "gradient_accumulation_steps": _accumulate(recipe),
        "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "linear",
        "disable_gradient_checkpointing": not recipe.checkpointing,
        "bf16": True,
        "output_dir": "out",
    }


def dataset_info(data: str) -> dict:
    """LLaMA-Factory's dataset_info.json for JSON lines in ShareGPT's format."""
    file = Path(data)
    columns = {"messages": "conversations"}
    return {file.stem: {"file_name": file.name, "formatting": "sharegpt", "columns": columns}}


def autotrain(recipe: Recipe, base: str, data: str) -> dict:
    """The YAML file for `autotrain --config`. `data` is a folder with train.jsonl, chat messages in `messages`."""
    file = Path(data)
    return {
        "task": "llm-sft",
        "base_model": base,
        "project_name": "out",
        "log": "tensorboard",
        "backend": "local",
        "data": {
            "path": str(file.parent),
            "train_split": file.stem,
            "valid_split": None,
            "chat_template": "tokenizer",
            "column_mapping": {"text_column": "messages"},
        },
        "params": {
            "block_size": recipe.max_length,
            "model_max_length": recipe.max_length,
            "epochs": _whole_epochs(recipe, "AutoTrain"),
            "batch_size": recipe.at_once,
            "gradient_accumulation": _accumulate(recipe),
            "lr": recipe.learning_rate,
            "scheduler": "linear",
            "optimizer": "paged_adamw_8bit",
            "disable_gradient_checkpointing": not recipe.checkpointing,
            "mixed_precision": "bf16",
            "peft": True,
            "quantization": "int4",
            "target_modules": "all-linear",
            "lora_r": recipe.rank,
            "lora_alpha": recipe.alpha,
            "lora_dropout": 0.0,
            "seed": recipe.seed,
        },
    }


def ludwig(recipe: Recipe, base: str, data: str) -> dict:
    """The YAML file for `ludwig train --config ... --dataset DATA`. `data`: a table with `prompt` and `reply`."""
    text = {"type": "text", "preprocessing": {"max_sequence_length": recipe.max_length}}
    adapter = {"type": "lora", "r": recipe.rank, "alpha": recipe.alpha, "dropout": 0.0}
    adapter["target_modules"] = PROJECTIONS  # a list; "all-linear" is refused
    return {
        "model_type": "llm",
        "base_model": base,
        "quantization": {"bits": 4, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        "adapter": adapter,
        "prompt": {"template": "{prompt}"},
        "input_features": [{"name": "prompt", **text}],
        "output_features": [{"name": "reply", **text}],
        "trainer": {
            "type": "finetune",
            "learning_rate": recipe.learning_rate,
            "epochs": _whole_epochs(recipe, "Ludwig"),
            "batch_size": recipe.at_once,
            "gradient_accumulation_steps": _accumulate(recipe),
            "enable_gradient_checkpointing": recipe.checkpointing,
        },
    }


def unsloth(recipe: Recipe, base: str, data: str) -> dict:
    """The arguments of the calls in a script that uses Unsloth and TRL (`script` writes it)."""
    return {
        "FastLanguageModel.from_pretrained": {
            "model_name": base,
            "max_seq_length": recipe.max_length,
            "load_in_4bit": True,
        },
        "FastLanguageModel.get_peft_model": {
            "r": recipe.rank,
            "lora_alpha": recipe.alpha,
            "lora_dropout": 0,
            "target_modules": PROJECTIONS,
            "use_gradient_checkpointing": "unsloth" if recipe.checkpointing else False,
            "random_state": recipe.seed,
        },
        "SFTConfig": {
            "output_dir": "out",
            "max_length": recipe.max_length,
            "completion_only_loss": True,
            "per_device_train_batch_size": recipe.at_once,
            "gradient_accumulation_steps": _accumulate(recipe),
            "num_train_epochs": recipe.epochs,
            "learning_rate": recipe.learning_rate,
            "lr_scheduler_type": "linear",
            "warmup_steps": 5,
            "optim": "paged_adamw_8bit",
            "seed": recipe.seed,
        },
    }


def script(calls: Mapping[str, dict], data: str) -> str:
    """The Python script for Unsloth with the arguments that `unsloth` gives. `data`: prompt and completion rows."""

    arguments = []  # of each call, a line each
    for settings in calls.values():
        lines = [f"    {key}={value!r},\n" for key, value in settings.items()]
        arguments.append("".join(lines))
    load, adapt, train = calls
    to_load, to_adapt, to_train = arguments
    return (
        "from unsloth import FastLanguageModel  # before trl, which it patches\n"
        "from datasets import load_dataset\nfrom trl import SFTConfig, SFTTrainer\n\n"
        f"model, tokenizer = {load}(\n{to_load})\n"
        f"model = {adapt}(\n    model,\n{to_adapt})\n"
        f"rows = load_dataset('json', data_files={data!r}, split='train')\n"
        f"settings = {train}(\n{to_train})\n"
        "SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer).train()\n"
    )


TOOLS = {
    "axolotl": axolotl,
    "llama-factory": llama_factory,
    "autotrain": autotrain,
    "ludwig": ludwig,
    "unsloth": unsloth,
}

# Where each tool keeps what the recipe says; "" where no key for it was found in the files that were read.
PLACES = {
    "learning rate": (
        "learning_rate",
        "learning_rate",
        "params.lr",
        "trainer.learning_rate",
        "SFTConfig.learning_rate",
    ),
    "epochs": ("num_epochs", "num_train_epochs", "params.epochs", "trainer.epochs", "SFTConfig.num_train_epochs"),
    "at once": (
        "micro_batch_size",
        "per_device_train_batch_size",
        "params.batch_size",
        "trainer.batch_size",
        "SFTConfig.per_device_train_batch_size",
    ),
    "accumulated": (
        "gradient_accumulation_steps",
        "gradient_accumulation_steps",
        "params.gradient_accumulation",
        "trainer.gradient_accumulation_steps",
        "SFTConfig.gradient_accumulation_steps",
    ),
    "longest": (
        "sequence_len",
        "cutoff_len",
        "params.block_size",
        "input_features.preprocessing.max_sequence_length",
        "SFTConfig.max_length",
    ),
    "rank": ("lora_r", "lora_rank", "params.lora_r", "adapter.r", "FastLanguageModel.get_peft_model.r"),
    "alpha": (
        "lora_alpha",
        "lora_alpha",
        "params.lora_alpha",
        "adapter.alpha",
        "FastLanguageModel.get_peft_model.lora_alpha",
    ),
    "4 bits": (
        "load_in_4bit",
        "quantization_bit",
        "params.quantization",
        "quantization.bits",
        "FastLanguageModel.from_pretrained.load_in_4bit",
    ),
    "NF4": ("", "quantization_type", "", "quantization.bnb_4bit_quant_type", ""),
    "all linear layers": (
        "lora_target_linear",
        "lora_target",
        "params.target_modules",
        "adapter.target_modules",
        "FastLanguageModel.get_peft_model.target_modules",
    ),
    "loss on the reply only": ("datasets.roles_to_train", "train_on_prompt", "", "", "SFTConfig.completion_only_loss"),
}


def place(config: Any, path: str) -> Any:
    """The value at `path` ("params.lr") in a config; KeyError if there is none. A list stands for its first item."""
    for name in _names(config, path):
        config = config[0] if isinstance(config, list) else config
        config = config[name]
    return config


def in_words(config: Mapping, path: str) -> str:
    """ "lora_r = 16": the key at `path` of a config and its value; "no key found" for an empty path."""
    if not path:
        return "no key found"
    key = path.split(".")[-1]
    value = place(config, path)
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return f"{key} = {value}"


def _names(config: Mapping, path: str) -> list[str]:
    """The steps of `path`; names of calls have a dot of their own."""
    for name in config:
        if "." in name and path.startswith(f"{name}."):
            rest = path.removeprefix(f"{name}.")
            return [name, *rest.split(".")]
    return path.split(".")


# ---------------------------------------------------------------- are the keys right?


@cache
def key_lists() -> dict[str, list[dict]]:
    text = KEYS.read_text("utf-8")
    return tomllib.loads(text)


@cache
def known() -> dict[tuple[str, str], frozenset[str]]:
    """(tool, place in its config) -> the keys that were read in its repository, or in a newer package."""
    found: dict[tuple[str, str], set[str]] = {}
    for entry in (*sources(), *key_lists()["newer"]):
        keys = found.setdefault((entry["tool"], entry["group"]), set())
        keys.update(entry["keys"].split())
    return {group: frozenset(keys) for group, keys in found.items()}


def sources() -> tuple[dict, ...]:
    """What was read: tool, repository, path, commit, group and keys of each file."""
    return tuple(key_lists()["read"])


def accepted() -> dict[str, dict]:
    """tool -> the version whose own code took our file unchanged, what that code is, and when."""
    return {entry["tool"]: entry for entry in key_lists()["accepted"]}


def checked(tool: str, config: Mapping) -> dict[str, str | int]:
    """A row for a table: where the tool's keys were read, which of `config` are none, and what took the file when."""
    files = [entry for entry in sources() if entry["tool"] == tool]
    paths = {entry["path"] for entry in files}
    commits = {entry["commit"][:8] for entry in files}
    mistakes = unknown(tool, config)
    taken = accepted()[tool]
    return {
        "tool": tool,
        "repository": files[0]["repository"],
        "files read": len(paths),
        "commits": ", ".join(sorted(commits)),
        "unknown keys": ", ".join(mistakes) or "none",
        "file taken by": taken["version"],
        "in it": taken["by"],
        "on": str(taken["date"]),
    }


def unknown(tool: str, config: Mapping) -> list[str]:
    """The keys of `config` that were not found in the tool's repository, as "place.key"; empty if all were.

    ValueError for a tool that was not read.
    """
    if tool not in TOOLS:
        raise ValueError(f"{tool!r} is none of the tools that were read: {', '.join(TOOLS)}.")
    names = []
    for group, key in _keys(tool, config):
        if key not in _allowed(tool, group):
            names.append(_joined(group, key))
    return names


def _keys(tool: str, config: Mapping, group: str = "") -> Iterator[tuple[str, str]]:
    """(place, key) of every key, at all depths. The top level of Unsloth's are the names of calls: no keys."""
    for key, value in config.items():
        if group or tool != "unsloth":
            yield group, key
        inside = _joined(group, key)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping):
                yield from _keys(tool, part, inside)


def _joined(group: str, key: str) -> str:
    """ "place.key", or the key alone at the top level."""
    return f"{group}.{key}" if group else key


def _allowed(tool: str, group: str) -> frozenset[str]:
    if group == "SFTConfig":  # of the library that is installed here
        from trl import SFTConfig

        fields = dataclasses.fields(SFTConfig)
        return frozenset(field.name for field in fields)
    keys = known()
    return keys.get((tool, group), frozenset())


def written(tool: str, config: Mapping, data: str) -> str:
    """The config as the text of the file that the tool reads."""
    from huggingface_hub.utils import yaml_dump

    if tool == "unsloth":
        return script(config, data)
    return yaml_dump(dict(config))


def save(tool: str, config: Mapping, data: str, folder: Path) -> list[Path]:
    """Write what the tool needs into `folder`; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    ending = "py" if tool == "unsloth" else "yaml"
    main = folder / f"{tool}.{ending}"
    main.write_text(written(tool, config, data), encoding="utf-8")
    if tool != "llama-factory":
        return [main]
    info = folder / "dataset_info.json"
    text = json.dumps(dataset_info(data), indent=2) + "\n"
    info.write_text(text, encoding="utf-8")
    return [main, info]
