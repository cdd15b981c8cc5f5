"""Open models that one could serve: who made them, under which licence, how large, and what their cache takes."""

import functools
import tomllib
from pathlib import Path

from course_utils.memory import shapes
from course_utils.memory.shapes import Architecture

TABLE = Path(__file__).with_name("open_models.toml")
PERIOD = 6  # of Gemma 3's layers, every sixth looks at the whole conversation (arXiv 2503.19786, section 2)


@functools.cache
def _read() -> dict:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def rows() -> list[dict]:
    """A row for each model, newest first; sizes in billions of parameters, counted where a shape is known."""
    newest_first = sorted(_read()["model"], key=lambda entry: entry["released"], reverse=True)
    return [_row(entry) for entry in newest_first]


def _row(entry: dict) -> dict:
    shape = shape_of(entry["name"])
    total, active = entry.get("billions"), entry.get("active")
    if shape:
        total = _billions(shape)
    if shape and shape.experts > 1:
        active = _billions(shape, active=True)
    row = {"model": entry["name"], "maker": entry["maker"], "released": f"{entry['released']:%Y-%m}"}
    row["billions"] = f"{total:.1f}"
    row["active"] = f"{active:.1f}" if active else ""
    row["counted"] = "yes" if shape else ""
    row["context"] = entry["context"]
    row["licence"] = entry["licence"]
    return row


def _billions(shape: Architecture, active: bool = False) -> float:
    return shapes.parameter_count(shape, active) / 1e9


def shape_of(name: str) -> Architecture | None:
    """The shape of a model in the table, None where only its size is known. ValueError for an unknown name."""
    known = {entry["name"]: entry for entry in _read()["model"]}
    if name not in known:
        raise ValueError(f"no open model {name!r} in the table; there are {', '.join(known)}")
    entry = known[name]
    if "shape" in entry:
        return shapes.architecture(entry["shape"])
    if "kind" in entry:
        return _by_default(entry["kind"])
    if "config" in entry:
        return _by_config(entry["config"])
    return None


@functools.cache
def _by_default(kind: str) -> Architecture:
    """transformers' defaults for some kinds are the sizes of their first model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return shapes.from_config(CONFIG_MAPPING[kind]().to_dict())


@functools.cache
def _by_config(name: str) -> Architecture:
    config = dict(_read()["config"][name])
    layers = range(1, config["num_hidden_layers"] + 1)
    config["layer_types"] = ["sliding_attention" if layer % PERIOD else "full_attention" for layer in layers]
    return shapes.from_config(config)
