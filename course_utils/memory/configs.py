"""A config.json from anywhere, made safe and given its defaults: transformers' configuration object.

No code from a configuration runs, nothing that it names is fetched, and a number that is no size of any model is
refused before lists of that length are made.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LARGEST = 2**40  # no size of a model or a batch comes near it, and no sum of such sizes is too large for a float
MOST_BYTES = 4 * 10**6  # of a config.json; the longest we know have 200 kB
MOST_LAYERS = 2000  # no model comes near it, and lists of this length are made before anything can be checked
DEEPEST = 20  # dictionaries inside each other
MOST_POSITIONS = 2**24  # tables of positions are worked out in Python by some older kinds
# What a configuration could say to make a library load code or weights from a hub, and what changes no shape.
LEFT_OUT = ("auto_map", "quantization_config", "compression_config", "attn_implementation", "experts_implementation")
LEFT_OUT += ("use_kernels", "use_pretrained_backbone", "dtype", "torch_dtype")


class NotCountedError(ValueError):
    """A configuration that is not understood; the text says what, and what to do."""


def read_config(path: Path) -> dict:
    """The contents of a config.json. ValueError for one that is damaged."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    return parsed(content, str(path))


def parsed(content: bytes, place: str) -> dict:
    """The configuration in the bytes of a config.json; `place` is what an error calls it. ValueError if damaged."""
    if len(content) > MOST_BYTES:
        raise ValueError(f"{place} is longer than any configuration: more than {MOST_BYTES:,} bytes.")
    try:
        config = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is damaged: it is no JSON. Download or copy it again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{place} is damaged: a configuration is a dictionary, and this is a {type(config).__name__}.")
    return config


def configuration(config: Mapping) -> Any:
    """transformers' configuration object for the contents of a config.json. NotCountedError if there is none."""
    from transformers import AutoConfig, __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if not isinstance(config, Mapping):
        raise NotCountedError(f"A configuration is a dictionary with names and values, not {config!r:.40}.")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        raise NotCountedError(_unknown(kind, __version__, "auto_map" in config))
    _check_sizes(config)
    _check_whole(config, kind)
    settings = _plain(config)
    settings.pop("model_type")
    try:
        return AutoConfig.for_model(kind, **settings)
    except Exception as error:  # each kind raises its own for values that it does not take
        raise refused(kind, "does not take this configuration", error) from error


def _unknown(kind: object, version: str, own_code: bool) -> str:
    more = ""
    if own_code:
        more = " The configuration names code of its own (auto_map), which is never run here."
    return (
        f"transformers {version} has no kind of model called {kind!r:.60}.{more} Compare model_type with the "
        "publisher's config.json; a newer transformers may know it."
    )


def refused(kind: str, what: str, error: Exception) -> NotCountedError:
    message = " ".join(str(error).split())  # the first line of some says only that there is a second
    reason = f"{type(error).__name__}: {message:.240}"
    return NotCountedError(
        f"transformers' {kind!r} {what} ({reason}). Nothing is guessed: compare it with the publisher's config.json."
    )


def _check_sizes(settings: Any, name: str = "it", depth: int = 0) -> None:
    """NotCountedError for a number that is no size of any model, before lists and tables of that size are made."""
    if depth > DEEPEST:
        raise NotCountedError("The configuration holds dictionaries inside each other without end: it is damaged.")
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            _check_sizes(value, str(key), depth + 1)
    elif isinstance(settings, list):
        for value in settings:
            _check_sizes(value, name, depth + 1)
    elif isinstance(settings, int) and not isinstance(settings, bool):
        _check_number(settings, name, _largest(name))


def _largest(name: str) -> int:
    """The largest number that a setting of this name may be."""
    if "position" in name or "length" in name:
        return MOST_POSITIONS
    counts = ("layer", "block", "depth", "n_group", "num_expert", "n_expert", "routed")
    if any(word in name for word in counts) and "dim" not in name and "size" not in name:
        return MOST_LAYERS
    return LARGEST


def _check_number(value: int, name: str, largest: int) -> None:
    if abs(value) > largest:
        shown = str(value) if value < 10**15 else "larger"
        raise NotCountedError(f"{name:.60} in the configuration is {shown[:20]}; at most {largest} can be counted.")


def _check_whole(config: Mapping, kind: str) -> None:
    """NotCountedError for a configuration that leaves even the number of layers to the library's default."""
    if not any(_is_depth(name) for name in _names(config)):
        raise NotCountedError(f"The configuration of this {kind} model has no num_hidden_layers: is it the whole file?")


def _is_depth(name: str) -> bool:
    words = ("layers", "n_layer", "blocks", "depth", "layer_types")
    return any(word in name for word in words)


def _names(settings: Mapping) -> Iterator[str]:
    for key, value in settings.items():
        yield str(key)
        if isinstance(value, Mapping):
            yield from _names(value)


def _plain(settings: Mapping) -> dict:
    """The settings without what names code, kernels or weights to fetch, and without private ones."""
    kept = {}
    for key, value in settings.items():
        if not isinstance(key, str) or key.startswith("_") or key in LEFT_OUT:
            continue
        kept[key] = _plain(value) if isinstance(value, Mapping) else value
    return kept
