"""The shapes of known models and cards, from architectures.toml, and what follows from a shape alone."""

import dataclasses
import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from course_utils.memory import configs
from course_utils.memory.configs import LARGEST

GIB = 2**30
TABLE = Path(__file__).with_name("architectures.toml")
# Without these numbers in a config.json, nothing can be estimated.
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
# Kinds that transformers makes from the sizes in `Architecture` alone, for a simulation.
BY_SIZES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "phi3")


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): a token's keys and values are made
    from one short vector, the latent, and that is what the cache keeps, beside one rotated key for all heads.

    Ranks are widths of latents, the others widths of a head: of keys without and with rotation, and of values.
    """

    kv_rank: int
    rotated: int
    plain: int
    value: int
    q_rank: int | None = None  # queries have a latent, too, or none

    @property
    def cached(self) -> int:
        """Numbers that the cache keeps for each token."""
        return self.kv_rank + self.rotated


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder-only language model. `parameters` is the published count, where there is one.

    `intermediate` is the width of the gated MLP, of a mixture that of one expert. Of its layers the `dense_layers` have
    one MLP of `dense_intermediate` instead, and experts that every token asks are `shared_intermediate` wide together.
    In `windowed` layers a token sees the last `window` tokens only, itself among them.
    """

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
    bias: bool = False  # of q, k and v (latent attention: of what makes the latents)
    head_dim: int | None = None
    parameters: int | None = None
    kind: str = "llama"  # as transformers names it
    out_bias: bool = False
    mlp_bias: bool = False
    router_bias: bool = False
    sinks: bool = False  # a learned score for each head, for "none of the tokens"
    norms: int = 2  # of the width of the model, in each layer
    qk_norms: str = ""  # "head": one each for queries and keys, as wide as a head; "all": as wide as all heads
    window: int | None = None
    windowed: int = 0
    dense_layers: int = 0
    dense_intermediate: int = 0
    shared_intermediate: int = 0
    latent: Latent | None = None
    context: int | None = None  # tokens that the model was made for, where its configuration says so
    config: str = ""  # the configuration as JSON, where sizes alone do not make the model

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden // self.heads

    @property
    def query_width(self) -> int:
        """Width of all queries of one token."""
        if self.latent:
            return self.heads * (self.latent.plain + self.latent.rotated)
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Width of all keys (and of all values) of one token: smaller with grouped-query attention."""
        return self.kv_heads * self.head_width

    @property
    def attention_width(self) -> int:
        """Width of queries, keys, values and the result of attention together, of one token."""
        if self.latent:
            return 2 * self.query_width + 2 * self.heads * self.latent.value
        return 2 * self.query_width + 2 * self.kv_width

    @property
    def cache_width(self) -> int:
        """Numbers that one layer's cache keeps for each token."""
        return self.latent.cached if self.latent else 2 * self.kv_width


@dataclass(frozen=True)
class Gpu:
    """A graphics card: `sold` in GB as on the box, `usable` in GiB as PyTorch reports it, `bandwidth` in GB/s."""

    name: str
    sold: int
    usable: float
    bandwidth: int
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
    """The shape of `model`: a short name, a hub id in the table, a config.json, or a folder with one.

    Raises ValueError, naming the known ones, for a name that is none of these.
    """
    if isinstance(model, Architecture):
        return model
    shape = known(str(model))
    if shape:
        return shape
    path = Path(model)
    file = path / "config.json" if path.is_dir() else path
    if file.is_file():
        return from_config(configs.read_config(file))
    raise ValueError(f"No model {str(model)!r:.200}. Known: {', '.join(tables()[0])}; or a folder with a config.json.")


def known(name: str) -> Architecture | None:
    """The shape in the table under this short name or hub id; None if there is none."""
    for short, shape in tables()[0].items():
        if name.lower() in (short, shape.id.lower()):
            return shape
    return None


def has_formula(kind: object) -> bool:
    """Whether the formulas were checked for this kind of model (`model_type` in a config.json)."""
    return isinstance(kind, str) and kind in kinds()


@functools.cache
def kinds() -> dict[str, dict]:
    """By kind of model, what sets it apart from Llama: fields of `Architecture` and names of settings."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))["formula"]


def from_config(config: Mapping) -> Architecture:
    """The shape in a config.json, given as a dictionary, of a kind in the table "formula" of architectures.toml.

    What the file leaves out has transformers' default. ValueError for another kind, and for a shape that is not all
    there or can't be.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"A configuration is a dictionary with names and values, not {config!r:.40}.")
    kind = config.get("model_type", "unknown")
    if not has_formula(kind):
        raise ValueError(f"The formulas were checked for {', '.join(kinds())} only, and {kind!r:.60} is not one.")
    if missing := [name for name in NEEDED if config.get(name) is None]:
        raise ValueError(f"The configuration of this {kind} model has no {', '.join(missing)}: is it the whole file?")
    for name in (*NEEDED, "num_key_value_heads", "head_dim"):
        if config.get(name) is not None:
            _size(config, name)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % kv_heads or (hidden % heads and not config.get("head_dim") and not config.get("kv_lora_rank")):
        raise ValueError(
            f"{heads} heads with {kv_heads} of keys and values can't share a width of {hidden}: the "
            "configuration is damaged."
        )
    whole = configs.configuration(config).to_dict()
    shape = _shape(config.get("_name_or_path") or kind, kind, whole)
    problem = _problem(shape)
    if problem:
        raise ValueError(f"{problem}: the configuration of this {kind} model is damaged.")
    sizes_are_enough = kind in BY_SIZES and not (shape.windowed or shape.out_bias or shape.mlp_bias)
    return shape if sizes_are_enough else dataclasses.replace(shape, config=json.dumps(config, sort_keys=True))


def _shape(name: str, kind: str, config: Mapping) -> Architecture:
    """The shape in a configuration with all its defaults."""
    heads = _size(config, "num_attention_heads")
    layers = _size(config, "num_hidden_layers")
    return Architecture(
        id=str(name),
        hidden=_size(config, "hidden_size"),
        layers=layers,
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", heads),
        vocab=_size(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings")),
        head_dim=None if config.get("head_dim") is None else _size(config, "head_dim"),
        kind=kind,
        latent=_latent(config),
        context=_size(config, "max_position_embeddings") if config.get("max_position_embeddings") else None,
        **_windows(config, layers),
        **_mlp(config, layers),
        **_own(kind, config),
    )


def _own(kind: str, config: Mapping) -> dict:
    """What the table says of a kind. A text for a field that is true or false names the setting that decides."""
    fields = {}
    for field, value in kinds()[kind].items():
        decided = isinstance(value, str) and field.endswith("bias")
        fields[field] = bool(config.get(value)) if decided else value
    return fields


def _latent(config: Mapping) -> Latent | None:
    if config.get("kv_lora_rank") is None:
        return None
    return Latent(
        kv_rank=_size(config, "kv_lora_rank"),
        rotated=_size(config, "qk_rope_head_dim"),
        plain=_size(config, "qk_nope_head_dim"),
        value=_size(config, "v_head_dim"),
        q_rank=None if config.get("q_lora_rank") is None else _size(config, "q_lora_rank"),
    )


def _windows(config: Mapping, layers: int) -> dict:
    """Which layers have a window, by the rule of transformers' cache: a list, or all of them where there is none."""
    types = config.get("layer_types")
    if config.get("sliding_window") is None:
        return {}
    windowed = layers if types is None else types.count("sliding_attention")
    return {"window": _size(config, "sliding_window"), "windowed": windowed} if windowed else {}


def _mlp(config: Mapping, layers: int) -> dict:
    """Widths of the MLP, and how many experts there are of which kind."""
    width = _size(config, "intermediate_size")
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((_size(config, name) for name in names if config.get(name)), 1)
    if experts == 1 and any(config.get(name) == 1 for name in names):
        raise ValueError("A mixture of one expert is none: the formulas do not know it.")
    if experts == 1:
        return {"intermediate": width}
    expert_width = _size(config, "moe_intermediate_size", width)
    shared = config.get("n_shared_experts") or 0
    dense = _dense_layers(config, layers)
    return {
        "intermediate": expert_width,
        "experts": experts,
        "active_experts": _size(config, "num_experts_per_tok"),
        "dense_layers": dense,
        "dense_intermediate": width if dense else 0,
        "shared_intermediate": shared * expert_width,
    }


def _dense_layers(config: Mapping, layers: int) -> int:
    """How many layers have one MLP in the place of experts."""
    first = config.get("first_k_dense_replace") or 0
    listed = config.get("mlp_only_layers") or []
    step = config.get("decoder_sparse_step") or 1
    sparse = [n for n in range(first, layers) if n not in listed and (n + 1) % step == 0]
    return layers - len(sparse)


def _problem(shape: Architecture) -> str:
    """What can't be in a shape; "" if all can."""
    if shape.active_experts > shape.experts:
        return f"A token can't ask {shape.active_experts} of {shape.experts} experts"
    if shape.windowed > shape.layers:
        return f"{shape.windowed} of {shape.layers} layers can't have a window"
    if shape.windowed and shape.window < 2:
        return "A window of 1 token is none"
    return ""


def _size(config: Mapping, name: str, default: int | None = None) -> int:
    """A size in a configuration. ValueError for what is none."""
    value = default if config.get(name) is None else config[name]
    if type(value) is not int or not 0 < value < LARGEST:
        raise ValueError(f"{name} in the configuration is {value!r:.40}: a whole number above 0 is needed.")
    return value


def matrix_shapes(model: "str | Architecture", active: bool = False) -> list[tuple[int, int]]:
    """(inputs, outputs) of every matrix in one layer: q, k, v, o, then gate, up, down of each expert.

    With `active`, only the experts that one token uses. The router of a mixture is not among them. Where layers
    differ, one with experts is meant.
    """
    a = architecture(model)
    experts = a.active_experts if active else a.experts
    return attention_shapes(a) + mlp_shapes(a, a.intermediate) * experts + mlp_shapes(a, a.shared_intermediate)


def attention_shapes(a: Architecture) -> list[tuple[int, int]]:
    """(inputs, outputs) of the matrices of one layer's attention."""
    if not a.latent:
        keys_or_values = (a.hidden, a.kv_width)
        return [(a.hidden, a.query_width), keys_or_values, keys_or_values, (a.query_width, a.hidden)]
    rank = a.latent.q_rank
    queries = [(a.hidden, rank), (rank, a.query_width)] if rank else [(a.hidden, a.query_width)]
    down = (a.hidden, a.latent.cached)
    up = (a.latent.kv_rank, a.heads * (a.latent.plain + a.latent.value))
    return [*queries, down, up, (a.heads * a.latent.value, a.hidden)]


def mlp_shapes(a: Architecture, width: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of gate, up and down; none for a width of 0."""
    return [(a.hidden, width), (a.hidden, width), (width, a.hidden)] if width else []


def all_matrices(model: "str | Architecture", active: bool = False) -> list[tuple[int, int, int]]:
    """(inputs, outputs, in how many layers) of every matrix in the layers."""
    a = architecture(model)
    dense = attention_shapes(a) + mlp_shapes(a, a.dense_intermediate)
    in_dense = [(inputs, outputs, a.dense_layers) for inputs, outputs in dense if a.dense_layers]
    others = a.layers - a.dense_layers
    return in_dense + [(inputs, outputs, others) for inputs, outputs in matrix_shapes(a, active)]


def matrix_count(model: "str | Architecture", active: bool = False) -> int:
    """Parameters in the matrices of all layers: the part that quantisation shrinks and LoRA adapts."""
    return sum(inputs * outputs * layers for inputs, outputs, layers in all_matrices(model, active))


def parameter_count(model: "str | Architecture", active: bool = False) -> int:
    """Exact number of parameters; with `active`, those that one token of a mixture of experts uses."""
    a = architecture(model)
    embeddings = a.vocab * a.hidden * (1 if a.tied else 2)
    last_norm = a.hidden
    routers = 0
    if a.experts > 1:
        routers = (a.layers - a.dense_layers) * a.experts * (a.hidden + a.router_bias)
    biases = a.layers * _attention_bias_count(a) + _mlp_bias_count(a, active)
    return matrix_count(a, active) + embeddings + a.layers * _norm_count(a) + last_norm + routers + biases


def _norm_count(a: Architecture) -> int:
    """Parameters of the norms in one layer, and of sinks, which are as few."""
    count = a.norms * a.hidden
    if a.qk_norms == "head":
        count += 2 * a.head_width
    elif a.qk_norms == "all":
        count += a.query_width + a.kv_width
    if a.latent:
        count += a.latent.kv_rank + (a.latent.q_rank or 0)
    return count + (a.heads if a.sinks else 0)


def _attention_bias_count(a: Architecture) -> int:
    """Biases of one layer's attention."""
    count = a.hidden if a.out_bias else 0
    if not a.bias:
        return count
    if a.latent:
        return count + a.latent.cached + (a.latent.q_rank or 0)
    return count + a.query_width + 2 * a.kv_width


def _mlp_bias_count(a: Architecture, active: bool) -> int:
    """Biases of gate, up and down in all layers."""
    if not a.mlp_bias:
        return 0
    experts = a.active_experts if active else a.experts
    sparse = a.layers - a.dense_layers
    a_dense_one = 2 * a.dense_intermediate + a.hidden
    return sparse * experts * (2 * a.intermediate + a.hidden) + a.dense_layers * a_dense_one


def lora_count(model: "str | Architecture", rank: int = 16) -> int:
    """Parameters that LoRA of this rank trains on all matrices of all layers: rank x (inputs + outputs) each.

    Hu et al. 2021, arXiv 2106.09685, section 4.1.
    """
    return sum(rank * (inputs + outputs) * layers for inputs, outputs, layers in all_matrices(model))
