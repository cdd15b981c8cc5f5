"""The shapes of known models and cards, from architectures.toml, and what follows from a shape alone."""

import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
TABLE = Path(__file__).with_name("architectures.toml")
# Without these numbers in a config.json, nothing can be estimated.
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
LARGEST = 2**40  # no size of a model or a batch comes near it, and no sum of such sizes is too large for a float


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder-only language model. `parameters` is the published count, where there is one."""

    id: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    experts: int = 1
    active_experts: int = 1
    tied: bool = False
    bias: bool = False
    head_dim: int | None = None
    parameters: int | None = None
    kind: str = "llama"  # as transformers names it

    @property
    def query_width(self) -> int:
        """Width of all queries of one token."""
        return self.heads * (self.head_dim or self.hidden // self.heads)

    @property
    def kv_width(self) -> int:
        """Width of all keys (and of all values) of one token: smaller with grouped-query attention."""
        return self.kv_heads * (self.head_dim or self.hidden // self.heads)


@dataclass(frozen=True)
class Gpu:
    """A graphics card: `sold` in GB as on the box, `usable` in GiB as PyTorch reports it."""

    name: str
    sold: int
    usable: float
    capability: float


@functools.cache
def tables() -> tuple[dict[str, Architecture], dict[str, Gpu]]:
    tables = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    models = {name: Architecture(**shape) for name, shape in tables["model"].items()}
    return models, {name: Gpu(**card) for name, card in tables["gpu"].items()}


def architectures() -> dict[str, Architecture]:
    """All shapes that the course knows, by short name."""
    return dict(tables()[0])


def gpus() -> dict[str, Gpu]:
    """All cards that the course knows, by short name."""
    return dict(tables()[1])


def architecture(model: "str | Path | Architecture") -> Architecture:
    """The shape of `model`: a short name, a hub id, or a folder with a config.json.

    Raises ValueError, naming the known ones, for a name that is none of these.
    """
    if isinstance(model, Architecture):
        return model
    known, wanted = tables()[0], str(model).lower()
    for name, shape in known.items():
        if wanted in (name, shape.id.lower()):
            return shape
    file = Path(model) / "config.json"
    if file.is_file():
        return from_config(_json(file))
    raise ValueError(f"No model {str(model)!r}. Known: {', '.join(known)}; or a folder with a config.json.")


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is no JSON. Download or copy it again.") from error


def from_config(config: Mapping) -> Architecture:
    """The shape in a config.json, given as a dictionary: Llama, Mistral, Mixtral, Qwen 2 or Phi 3.

    ValueError for another kind, and for a shape that is not all there or can't be.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"A configuration is a dictionary with names and values, not {config!r:.40}.")
    kind = config.get("model_type", "unknown")
    if kind not in ("llama", "mistral", "mixtral", "qwen2", "phi3"):
        raise ValueError(f"The estimates were checked for Llama-like models only, and {kind!r} is not one.")
    if missing := [name for name in NEEDED if config.get(name) is None]:
        raise ValueError(f"The configuration of this {kind} model has no {', '.join(missing)}: is it the whole file?")
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    shape = Architecture(
        id=config.get("_name_or_path") or kind,
        hidden=hidden,
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", heads),
        intermediate=_size(config, "intermediate_size"),
        vocab=_size(config, "vocab_size"),
        experts=_size(config, "num_local_experts", 1),
        active_experts=_size(config, "num_experts_per_tok", 1),
        tied=bool(config.get("tie_word_embeddings", False)),
        bias=kind == "qwen2" or bool(config.get("attention_bias", False)),
        head_dim=None if config.get("head_dim") is None else _size(config, "head_dim"),
        kind=kind,
    )
    if heads % shape.kv_heads or (hidden % heads and not shape.head_dim):
        raise ValueError(
            f"{heads} heads with {shape.kv_heads} of keys and values can't share a width of {hidden}: the "
            "configuration is damaged."
        )
    return shape


def _size(config: Mapping, name: str, default: int | None = None) -> int:
    """A size in a configuration. ValueError for what is none."""
    value = default if config.get(name) is None else config[name]
    if type(value) is not int or not 0 < value < LARGEST:
        raise ValueError(f"{name} in the configuration is {value!r:.40}: a whole number above 0 is needed.")
    return value


def matrix_shapes(model: "str | Architecture", active: bool = False) -> list[tuple[int, int]]:
    """(inputs, outputs) of every matrix in one layer: q, k, v, o, then gate, up, down of each expert.

    With `active`, only the experts that one token uses. The router of a mixture is not among them.
    """
    a = architecture(model)
    attention = [
        (a.hidden, a.query_width),
        (a.hidden, a.kv_width),
        (a.hidden, a.kv_width),
        (a.query_width, a.hidden),
    ]
    mlp = [(a.hidden, a.intermediate), (a.hidden, a.intermediate), (a.intermediate, a.hidden)]
    return attention + mlp * (a.active_experts if active else a.experts)


def matrix_count(model: "str | Architecture", active: bool = False) -> int:
    """Parameters in the matrices of all layers: the part that quantisation shrinks and LoRA adapts."""
    a = architecture(model)
    return a.layers * sum(i * o for i, o in matrix_shapes(a, active))


def parameter_count(model: "str | Architecture", active: bool = False) -> int:
    """Exact number of parameters; with `active`, those that one token of a mixture of experts uses."""
    a = architecture(model)
    embeddings = a.vocab * a.hidden * (1 if a.tied else 2)
    norms = a.hidden * (2 * a.layers + 1)
    biases = a.layers * (a.query_width + 2 * a.kv_width) if a.bias else 0
    routers = a.layers * a.hidden * a.experts if a.experts > 1 else 0
    return matrix_count(a, active) + embeddings + norms + biases + routers


def lora_count(model: "str | Architecture", rank: int = 16) -> int:
    """Parameters that LoRA of this rank trains on all matrices of all layers: rank x (inputs + outputs) each.

    Hu et al. 2021, arXiv 2106.09685, section 4.1.
    """
    a = architecture(model)
    return a.layers * sum(rank * (i + o) for i, o in matrix_shapes(a))
