"""Any causal language model, counted: its parameters, and what its cache holds for how many tokens.

    counted = count(json.loads(Path("config.json").read_text("utf-8")))
    counted.parameters, counted.cache_bytes(tokens=8192)

`formulas` calculates from a shape. Here transformers itself builds the model of a config.json, on PyTorch's device
"meta", where tensors have shapes and no memory. It reads a few tokens there, and so its own code fills its own cache.
No weights are needed, no code from a configuration runs, and a kind that cannot be built or run is refused by name.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.memory import configs, fake
from course_utils.memory.configs import NotCountedError, refused

if TYPE_CHECKING:
    import torch
    from torch import nn

SHORT, LONGER = 5, 8  # tokens that the model reads to show how its cache grows
# The ways that ask the least about numbers, of which there are none, and about their type.
PLAIN = {"attn_implementation": "eager", "experts_implementation": "batched_mm"}
# Layers of transformers' caches whose growth is known: a row for each token, and of at most `sliding_window` - 1
# tokens where there is a window; states, under these names, keep their size.
GROWING = ("DynamicLayer", "DynamicSlidingWindowLayer", "DynamicIndexedLayer")
GROWING += ("LinearAttentionAndFullAttentionLayer", "LinearAttentionAndSlidingWindowAttentionLayer")
FIXED = (".conv_states", ".recurrent_states")
# Where kinds put what they keep that is in no cache of keys and values.
OTHER_STATES = ("cache_params", "state", "mems", "past_buckets_states", "rnn_state")
PICTURES_AND_SOUND = ("pixel_values", "pixel_values_videos", "input_features", "input_values")


@dataclass(frozen=True)
class CacheLayer:
    """What one layer keeps of one sequence, in bytes: `a_token` for each of at most `most` tokens, and `fixed`."""

    a_token: int
    most: int | None = None
    fixed: int = 0

    def bytes(self, tokens: int) -> int:
        """Bytes after `tokens` tokens, one at least."""
        kept = tokens if self.most is None else min(tokens, self.most)
        return kept * self.a_token + self.fixed


NOTHING = CacheLayer(0)


@dataclass(frozen=True)
class Counted:
    """A model that was built and counted. Numbers are parameters unless they are called bytes."""

    id: str
    kind: str  # as the configuration calls it
    built: str  # the class in transformers
    layers: int
    hidden: int
    vocab: int
    context: int | None  # tokens that the model was made for
    parameters: int
    embeddings: int  # looked up, not multiplied: a token reads one row
    experts: int  # in all experts of all layers
    active_experts: int | None  # in those that one token uses; None if that is not known
    towers: tuple[tuple[str, int], ...]  # for pictures and sound
    linear: tuple[tuple[int, int, int], ...]  # (inputs, outputs, how many): what bitsandbytes and PEFT replace
    tower_linear: tuple[tuple[int, int, int], ...]  # those of them that are in the towers
    cache: tuple[CacheLayer, ...]
    no_cache: str  # why the cache is not known; "" if it is
    bytes_a_number: int  # of the format in which weights and cache were counted
    notes: tuple[str, ...]  # what is to be said aloud
    config: str  # the configuration, as JSON

    def cache_bytes(self, tokens: int, batch: int = 1) -> int:
        """Bytes of the cache for `batch` sequences of `tokens` tokens. NotCountedError if they are not known."""
        if self.no_cache:
            raise NotCountedError(self.no_cache)
        return batch * sum(layer.bytes(tokens) for layer in self.cache)

    @property
    def linear_parameters(self) -> int:
        """In the matrices that bitsandbytes quantises."""
        return sum(inputs * outputs * number for inputs, outputs, number in self.linear)

    @property
    def used(self) -> int:
        """Parameters that are read to write one token: no embeddings, no towers, and the active experts only.

        NotCountedError if nobody knows which experts these are.
        """
        if self.active_experts is None:
            raise NotCountedError(f"How many experts of {self.kind!r} one token uses is not known.")
        idle = self.embeddings + self.experts - self.active_experts
        return self.parameters - idle - sum(size for _, size in self.towers)


# ---------------------------------------------------------------------------------------------- building


def build(config: Mapping, dtype: "torch.dtype", **ways: str) -> "nn.Module":
    """The model of a config.json without memory (device "meta"), in `dtype`, ready to read.

    `ways` are transformers' names of ways to work attention and experts out; its own choice if left out.

    NotCountedError if transformers has no model that writes text for it, or cannot build it.
    """
    import torch

    made = configs.configuration(config)
    kind = config["model_type"]
    builder = _builder(made, kind)
    try:
        with torch.device("meta"):
            model = builder.from_config(made, dtype=dtype, **ways)
    except Exception as error:  # whatever a kind raises for sizes that do not go together
        raise refused(kind, "cannot be built from this configuration", error) from error
    return model.eval()


def _builder(made: Any, kind: str) -> Any:
    """The class of transformers that builds models of this kind: for text, or for text about pictures."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto

    if type(made) in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(made) in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise NotCountedError(f"{kind!r} is known to transformers, and not as a model that writes text token by token.")


# ---------------------------------------------------------------------------------------------- counting


def count(config: Mapping, dtype: str = "bfloat16") -> Counted:
    """Count the model of a config.json, given as a dictionary; `dtype` is the format of weights and cache.

    In this process and without a limit in time; `apart.count_apart` has one. NotCountedError, which says what and what
    to do, for what transformers cannot build. A cache that is not understood is left out, and `no_cache` says why.
    """
    import torch

    model = build(config, getattr(torch, dtype), **PLAIN)
    kind = config["model_type"]
    experts = Experts(model)
    cache, no_cache = _cache_or_reason(model, kind)
    experts.stop()
    text = model.config.get_text_config(decoder=True)
    towers = _towers(model)
    return Counted(
        id=_label(config, kind),
        kind=kind,
        built=type(model).__name__,
        layers=_setting(text, "num_hidden_layers") or 0,
        hidden=_setting(text, "hidden_size") or 0,
        vocab=_setting(text, "vocab_size") or 0,
        context=_setting(text, "max_position_embeddings"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embeddings=_looked_up(model, towers),
        experts=experts.parameters,
        active_experts=experts.active,
        towers=towers,
        linear=_linear(model),
        tower_linear=_linear(model, tuple(f"{name}." for name, _ in towers)),
        cache=cache,
        no_cache=no_cache,
        bytes_a_number=getattr(torch, dtype).itemsize,
        notes=tuple(_notes(config, model, towers)),
        config=json.dumps(config, sort_keys=True),
    )


def _label(config: Mapping, kind: str) -> str:
    name = config.get("_name_or_path")
    return name if isinstance(name, str) and name else kind


def _setting(text: Any, name: str) -> int | None:
    """A whole number above 0 in the configuration, whatever a kind calls it. None if there is none."""
    value = getattr(text, name, None)
    return value if type(value) is int and value > 0 else None


class Experts:
    """Looks on while a model reads: how many parameters are in experts, and in those that one token uses."""

    def __init__(self, model: "nn.Module") -> None:
        self.parameters = 0
        self.active: int | None = 0
        self._handles = []
        seen: set[int] = set()
        for module in model.modules():
            if hasattr(type(module), "_apply_gate"):  # transformers' mark on modules that hold all experts of a layer
                self._handles.append(module.register_forward_pre_hook(self._asked, with_kwargs=True))
                seen |= {id(parameter) for parameter in module.parameters()}
        for name, parameter in model.named_parameters():
            if "experts." in name and "shared" not in name:
                self.parameters += parameter.numel()
                if id(parameter) not in seen:  # an older way to hold them: nobody tells which ones are asked
                    self.active = None
        self._counted: set[int] = set()

    def _asked(self, module: Any, given: tuple, named: dict) -> None:
        """Called with (tokens, hidden), (tokens, experts asked) and their weights before the experts answer."""
        if id(module) in self._counted or self.active is None:
            return
        self._counted.add(id(module))
        which = given[1] if len(given) > 1 else named["top_k_index"]
        share = sum(parameter.numel() for parameter in module.parameters()) // module.num_experts
        self.active += which.shape[-1] * share

    def stop(self) -> None:
        """No longer look on. Where experts were never asked, nobody knows how many a token uses."""
        for handle in self._handles:
            handle.remove()
        if len(self._counted) < len(self._handles):
            self.active = None


def _towers(model: "nn.Module") -> tuple[tuple[str, int], ...]:
    """Name and parameters of the parts that read pictures or sound."""
    from transformers import PreTrainedModel

    found: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and isinstance(module, PreTrainedModel) and module.main_input_name in PICTURES_AND_SOUND:
            found[name] = sum(parameter.numel() for parameter in module.parameters())
    return tuple(found.items())


def _looked_up(model: "nn.Module", towers: tuple[tuple[str, int], ...]) -> int:
    """Parameters of tables of which a token reads one row. A table that is the head, too, is read as a whole."""
    from torch import nn

    head = getattr(model.get_output_embeddings(), "weight", None)
    starts = tuple(f"{name}." for name, _ in towers)
    modules = {name: module for name, module in model.named_modules() if not name.startswith(starts)}
    tables = {id(one.weight): one.weight for one in modules.values() if isinstance(one, nn.Embedding)}
    return sum(table.numel() for key, table in tables.items() if key != id(head))


def _linear(model: "nn.Module", inside: tuple[str, ...] = ("",)) -> tuple[tuple[int, int, int], ...]:
    """(inputs, outputs) of every linear layer but the head, and how many there are of each; `inside` these parts."""
    layers = {name: layer for name, layer in fake.linear_layers(model).items() if name.startswith(inside)}
    sizes = Counter(fake.linear_size(layer) for layer in layers.values())
    return tuple((*size, number) for size, number in sorted(sizes.items()))


def _notes(config: Mapping, model: "nn.Module", towers: tuple) -> Iterator[str]:
    """What is to be said aloud beside the numbers."""
    for name, size in towers:
        yield f"{size:,} of the parameters are {name}, for pictures or sound: counted, and not read to write text."
    parts = [name for name in ("vision_config", "audio_config") if isinstance(config.get(name), Mapping)]
    if parts and not towers:
        yield f"{' and '.join(parts)} left out: {type(model).__name__} reads text only."
    if config.get("quantization_config"):
        yield "The file says that its weights are quantised. Counted are the weights without that; choose a method."


# ---------------------------------------------------------------------------------------------- cache


def _cache_or_reason(model: "nn.Module", kind: str) -> tuple[tuple[CacheLayer, ...], str]:
    """What each layer keeps, and "" or why that is not known."""
    try:
        few, more = _read(model, kind, SHORT), _read(model, kind, LONGER)
        return tuple(_growth(kind, few, more)), ""
    except NotCountedError as error:
        return (), str(error)


def _read(model: "nn.Module", kind: str, tokens: int) -> list[Any]:
    """What the model keeps after it has read `tokens` tokens: one object a layer."""
    import torch

    given = {"input_ids": torch.ones(1, tokens, dtype=torch.long, device="meta"), "use_cache": True}
    with torch.no_grad():
        try:
            return kept(model(**given))
        except Exception as error:  # whatever a kind raises that cannot run so, or not without numbers
            with contextlib.suppress(Exception), torch.device("meta"), fake.answers_without_numbers():
                return kept(model(**given))
            what = "was built and counted, but reads no token, so its cache is not known"
            raise refused(kind, what, error) from error


def kept(output: Mapping) -> list[Any]:
    """What a model's output holds for the next token: one object a layer, in any of the ways of transformers."""
    cache = output.get("past_key_values")
    cache = getattr(cache, "self_attention_cache", cache)
    if hasattr(cache, "layers"):
        beside = {name: value for name, value in vars(cache).items() if name != "layers"}
        return [*cache.layers, beside]  # some kinds keep more in the cache than its layers know of
    others = [output.get(name) for name in ("past_key_values", *OTHER_STATES)]
    return [one for one in others if one is not None]


def numbers_of(layer: Any) -> "dict[str, torch.Tensor]":
    """The tensors that one layer keeps, by name; not the counters beside them."""
    import torch

    found = {}
    for name, value in _leaves(layer):
        if isinstance(value, torch.Tensor) and value.ndim and value.is_floating_point():
            found[name] = value
    return found


def _leaves(holder: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Whatever is in lists, dictionaries and objects of transformers inside each other, with where it was found."""
    if depth > 6:
        return
    if isinstance(holder, Mapping):
        inside = list(holder.items())
    elif isinstance(holder, list | tuple):
        inside = list(enumerate(holder))
    elif type(holder).__module__.startswith("transformers."):
        inside = list(vars(holder).items())
    else:
        yield name, holder
        return
    for key, value in inside:
        yield from _leaves(value, f"{name}.{key}", depth + 1)


def _growth(kind: str, few: list[Any], more: list[Any]) -> Iterator[CacheLayer]:
    """How each layer grows, from what it keeps of SHORT and of LONGER tokens."""
    for layer, longer in zip(few, more, strict=True):
        short_sizes, long_sizes = _sizes(layer), _sizes(longer)
        measured = sum(short_sizes.values()), sum(long_sizes.values())
        window = getattr(layer, "sliding_window", None)
        grown = _straight(*measured) if window is None else _windowed(short_sizes, window)
        grows = measured[0] != measured[1] or window is not None
        understood = type(layer).__name__ in GROWING or not grows
        if not understood or measured != (grown.bytes(SHORT), grown.bytes(LONGER)):
            raise NotCountedError(
                f"The cache of {kind!r} grows in a {type(layer).__name__}, and by which rule is not understood: "
                "its parameters are counted, its cache is not."
            )
        if grown != NOTHING:
            yield grown


def _straight(short: int, longer: int) -> CacheLayer:
    """A layer that keeps the same number of bytes for every further token."""
    a_token = (longer - short) // (LONGER - SHORT)
    return CacheLayer(a_token, None, short - SHORT * a_token)


def _windowed(sizes: dict[str, int], window: int) -> CacheLayer:
    """A layer with a sliding window: it keeps one token less, because the next one sees itself, too."""
    most = max(window - 1, 1)
    fixed = sum(size for name, size in sizes.items() if name.startswith(FIXED))
    rows = sum(sizes.values()) - fixed
    return CacheLayer(rows // min(SHORT, most), most, fixed)


def _sizes(layer: Any) -> dict[str, int]:
    """Bytes of each tensor that a layer keeps."""
    return {name: tensor.nbytes for name, tensor in numbers_of(layer).items()}
