"""How much memory a language model needs, component by component, from its shape alone.

    estimate("mistral-7b", "qlora", seq=512).explain()
    fits(estimate("mistral-7b", "qlora"), "t4")

Every component is one short function with its formula and source, so that it can be checked by hand. All are
for decoder-only models of the Llama kind: RMSNorm, rotary positions, grouped-query attention, gated MLP.
Sizes are in bytes inside and in GiB (2^30 bytes) outside.
"""

import dataclasses
import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_utils.hardware import Hardware

GIB = 2**30
TABLE = Path(__file__).with_name("architectures.toml")

# Bits per weight of the formats that quantise matrices and leave embeddings, head and norms in 16 bits. NF4:
# 4 bits, and for each block of 64 weights a scale in 8 bits, and for each 256 scales one more in 32 bits
# (double quantisation: 0.127 bits a weight instead of 0.5; Dettmers et al. 2023, arXiv 2305.14314, section
# 3).
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# Bits per weight of whole GGUF files: Q8_0 is 32 weights of 8 bits and a 16-bit scale; the others are the
# averages for Llama 2 7B in the table that llama.cpp long published with its quantise tool.
GGUF_BITS = {"q8_0": 8.5, "q6_k": 6.56, "q5_k_m": 5.68, "q4_k_m": 4.84, "q3_k_m": 3.91, "q2_k": 3.35}

INFERENCE = ("inference-fp32", "inference-fp16", "inference-int8", "inference-nf4")
GGUF = tuple(f"inference-{name}" for name in GGUF_BITS)
TRAINING = ("lora", "qlora", "full")
METHODS = INFERENCE + GGUF + TRAINING

# Optimiser state per trained parameter: AdamW keeps two fp32 numbers; the 8-bit one two bytes and their
# scales (Dettmers et al. 2021, arXiv 2110.02861: blocks of 256 in the library today).
OPTIMISERS = {"adamw": 8.0, "adamw-8bit": 2 + 2 * 4 / 256}

# Without these numbers in a config.json, nothing can be estimated.
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
LARGEST = 2**40  # no size of a model or a batch comes near it, and no sum of such sizes is too large for a float

# What CUDA itself, its libraries and the allocator's gaps take beyond the tensors: a rule of ours, on the
# safe side.
RUNTIME_GIB = 0.6
RUNTIME_SHARE = 0.05


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
def _tables() -> tuple[dict[str, Architecture], dict[str, Gpu]]:
    tables = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    models = {name: Architecture(**shape) for name, shape in tables["model"].items()}
    return models, {name: Gpu(**card) for name, card in tables["gpu"].items()}


def architectures() -> dict[str, Architecture]:
    """All shapes that the course knows, by short name."""
    return dict(_tables()[0])


def gpus() -> dict[str, Gpu]:
    """All cards that the course knows, by short name."""
    return dict(_tables()[1])


def architecture(model: "str | Path | Architecture") -> Architecture:
    """The shape of `model`: a short name, a hub id, or a folder with a config.json.

    Raises ValueError, naming the known ones, for a name that is none of these.
    """
    if isinstance(model, Architecture):
        return model
    known, wanted = _tables()[0], str(model).lower()
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


# ---------------------------------------------------------------------------------------------- parameters


def linear_layers(model: "str | Architecture", active: bool = False) -> list[tuple[int, int]]:
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
    return a.layers * sum(i * o for i, o in linear_layers(a, active))


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
    return a.layers * sum(rank * (i + o) for i, o in linear_layers(a))


# ---------------------------------------------------------------------------------------------- components


def weight_bytes(model: "str | Architecture", number_format: str = "fp16") -> float:
    """Bytes of the weights in fp32, fp16 (bf16 is the same), int8, nf4 or a GGUF format such as q4_k_m.

    int8 and nf4 hold only the matrices of the layers in few bits, and the rest (embeddings, head, norms) in
    16. int8 has one 32-bit scale for each output of a matrix (Dettmers et al. 2022, arXiv 2208.07339).
    """
    a = architecture(model)
    total, matrices = parameter_count(a), matrix_count(a)
    if number_format in ("fp32", "fp16"):
        return total * (4 if number_format == "fp32" else 2)
    if number_format in GGUF_BITS:
        return total * GGUF_BITS[number_format] / 8
    rest = 2 * (total - matrices)
    if number_format == "nf4":
        return rest + matrices * NF4_BITS / 8
    if number_format == "int8":
        return rest + matrices + 4 * a.layers * sum(outputs for _, outputs in linear_layers(a))
    known = ", ".join(["fp32", "fp16", "int8", "nf4", *GGUF_BITS])
    raise ValueError(f"No number format {number_format!r}. Known: {known}.")


def kv_cache_bytes(model: "str | Architecture", seq: int, batch: int = 1, bytes_per_number: float = 2) -> float:
    """Bytes of the keys and values of `seq` tokens: 2 x layers x key width x tokens x batch.

    Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) makes the key width smaller than the
    hidden one.
    """
    a = architecture(model)
    return 2 * a.layers * a.kv_width * seq * batch * bytes_per_number


def layer_activation_bytes(model: "str | Architecture", method: str, seq: int, batch: int = 1) -> float:
    """Bytes that one layer keeps for its backward pass (when training), or holds at once (otherwise).

    Per token, in 16-bit numbers unless said otherwise: the 32-bit input of both norms, then q, k, v and the
    result of attention, then gate, its activation and up (in 32 bits for qlora, because the norms are and 4-bit
    layers answer in the format in which they are asked). No term grows with the square of `seq`: PyTorch's fused
    attention stores no scores (Dao et al. 2022, arXiv 2205.14135). On top comes what the trained matrices need:
    - full: the 16-bit input of every matrix (q, k, v share one, gate and up too) and of both norms;
    - lora, qlora: a 16-bit copy of its input for each of the seven adapters, as PEFT makes without dropout.
    Counted in transformers' Llama with `course_utils.simulate`; the idea is that of Korthikanti et al. 2022,
    arXiv 2205.05198.
    """
    a = architecture(model)
    mlp = a.intermediate * a.active_experts
    base = 2 * 4 * a.hidden + 2 * (2 * a.query_width + 2 * a.kv_width) + (4 if method == "qlora" else 2) * 3 * mlp
    extra = 0
    if method in ("lora", "qlora"):
        extra = 2 * sum(inputs for inputs, _ in linear_layers(a, active=True))
    elif method == "full":
        extra = 2 * (2 * a.hidden + mlp) + 2 * 2 * a.hidden
    return (base + extra) * seq * batch * (2 if method == "inference-fp32" else 1)


def logit_bytes(model: "str | Architecture", method: str, seq: int, batch: int = 1) -> float:
    """Bytes for the scores over the vocabulary.

    Training: 12 for each of vocabulary x tokens: the fp32 log-softmax, its gradient and the logits' gradient.
    Inference: 4 each, for the last token only.
    """
    a = architecture(model)
    return a.vocab * batch * (12 * seq if method in TRAINING else 4)


# ---------------------------------------------------------------------------------------------- the estimate


@dataclass(frozen=True)
class Estimate:
    """Memory by component, in GiB, and the setting it is for. `total` is what the card must have free."""

    model: str
    shape: Architecture
    method: str
    seq: int
    batch: int
    rank: int
    checkpointing: bool
    optimiser: str
    weights: float
    adapters: float
    gradients: float
    optimiser_state: float
    activations: float
    logits: float
    kv_cache: float
    dequantised: float
    margin: float

    COMPONENTS = (
        "weights",
        "adapters",
        "gradients",
        "optimiser_state",
        "activations",
        "logits",
        "kv_cache",
        "dequantised",
        "margin",
    )

    @property
    def tensors(self) -> float:
        """GiB without the runtime margin: what a simulation of the tensors should find."""
        return sum(getattr(self, name) for name in self.COMPONENTS[:-1])

    @property
    def total(self) -> float:
        """GiB with the runtime margin."""
        return self.tensors + self.margin

    def rows(self) -> list[dict]:
        """One dictionary per component that is not zero, and the total, for a table."""
        rows = [
            {"component": name.replace("_", " "), "GiB": getattr(self, name), "how": _HOW[name]}
            for name in self.COMPONENTS
            if getattr(self, name) > 0
        ]
        return [*rows, {"component": "total", "GiB": self.total, "how": ""}]

    def explain(self) -> str:
        """The same as text, a line per component, under a line that names the setting."""
        lines = [f"{self.model}, {self.method}, {self.seq} tokens, batch {self.batch}"]
        lines += [f"{r['component']:>16} {r['GiB']:8.2f} GiB  {r['how']}".rstrip() for r in self.rows()]
        return "\n".join(lines)

    def as_dict(self) -> dict:
        """All fields and the total, for JSON."""
        return {**dataclasses.asdict(self), "total": self.total}

    def change(self, **settings) -> "Estimate":
        """The estimate with some of the arguments of `estimate` changed."""
        names = ("method", "seq", "batch", "rank", "checkpointing", "optimiser")
        return estimate(**{"model": self.shape, **{name: getattr(self, name) for name in names}, **settings})


_HOW = {
    "weights": "parameters x bits / 8",
    "adapters": "rank x (inputs + outputs) of every matrix, fp32",
    "gradients": "one fp32 number for each trained parameter",
    "optimiser_state": "AdamW's two averages of the gradient",
    "activations": "kept for the backward pass, or one layer's at inference",
    "logits": "vocabulary x tokens x 12 bytes; at inference 4, of the last token",
    "kv_cache": "2 x layers x key width x tokens",
    "dequantised": "the largest matrix (qlora: and the head), in 16 bits while used",
    "margin": f"runtime: {RUNTIME_GIB} GiB and {RUNTIME_SHARE:.0%} of the rest",
}


def estimate(
    model: "str | Path | Architecture",
    method: str = "inference-fp16",
    seq: int = 512,
    batch: int = 1,
    rank: int = 16,
    checkpointing: bool = True,
    optimiser: str = "adamw",
) -> Estimate:
    """Estimate the peak memory of one step: `batch` sequences of `seq` tokens.

    `method` is one of METHODS, `optimiser` of OPTIMISERS; rank, checkpointing and optimiser matter for
    training only. Training is mixed precision. Full: weights, gradients and averages in fp32, multiplied in 16
    bits, as PyTorch does it. That is 16 bytes a parameter, the same sum as with 16-bit weights and gradients and a
    32-bit copy (Rajbhandari et al. 2019, arXiv 1910.02054, section 3.1). For qlora PEFT keeps everything that is not
    4-bit in fp32, and so what passes between layers, so that fp16 on a T4 does not overflow. With checkpointing, the
    logits and the layer that is worked out again are never there at once: the larger counts.

    Raises ValueError for unknown names and for sizes that are no whole numbers above 0.
    """
    a = architecture(model)
    check(method, optimiser, seq=seq, batch=batch, rank=rank)
    training, adapted = method in TRAINING, method in ("lora", "qlora")
    number_format = {"lora": "fp16", "qlora": "nf4", "full": "fp32"}.get(method, method.removeprefix("inference-"))
    trained = lora_count(a, rank) if adapted else parameter_count(a) if method == "full" else 0
    layer = layer_activation_bytes(a, method, seq, batch)
    four_bit, wide = number_format == "nf4", method == "qlora"
    checkpoints = (4 if wide else 2) * a.hidden * seq * batch * a.layers
    head = a.vocab * a.hidden
    logits = logit_bytes(a, method, seq, batch)
    kept = layer if not training else checkpoints + max(layer - logits, 0) if checkpointing else a.layers * layer
    sizes = {
        "weights": weight_bytes(a, number_format) + (2 * (parameter_count(a) - matrix_count(a)) if wide else 0),
        "adapters": 4 * trained if adapted else 0,
        "gradients": 4 * trained,
        "optimiser_state": OPTIMISERS[optimiser] * trained,
        "activations": kept,
        "logits": logits,
        "kv_cache": 0 if training else kv_cache_bytes(a, seq, batch, 4 if method == "inference-fp32" else 2),
        "dequantised": 2 * (max(i * o for i, o in linear_layers(a)) + head * wide) if four_bit else 0,
    }
    margin = RUNTIME_GIB * GIB + RUNTIME_SHARE * sum(sizes.values())
    settings = {
        "model": _name(model, a),
        "shape": a,
        "method": method,
        "seq": seq,
        "batch": batch,
        "rank": rank,
    }
    settings |= {"checkpointing": checkpointing, "optimiser": optimiser}
    return Estimate(**settings, **{name: size / GIB for name, size in {**sizes, "margin": margin}.items()})


def _name(model: "str | Path | Architecture", shape: Architecture) -> str:
    for name, known in _tables()[0].items():
        if known == shape:
            return name
    return shape.id if isinstance(model, Architecture) else str(model)


def check(method: str, optimiser: str, **sizes: int) -> None:
    """ValueError, naming the known ones, for an unknown name; and for a size that is no whole number above 0."""
    if method not in METHODS:
        raise ValueError(f"No method {method!r}. Known: {', '.join(METHODS)}.")
    if optimiser not in OPTIMISERS:
        raise ValueError(f"No optimiser {optimiser!r}. Known: {', '.join(OPTIMISERS)}.")
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, Integral) or not 1 <= size < LARGEST:
            raise ValueError(f"{name} must be a whole number of at least 1, not {size!r:.40}.")


# ---------------------------------------------------------------------------------------------- does it fit?


@dataclass(frozen=True)
class Verdict:
    """Whether an estimate fits, in GiB, and what to change if not. Prints as a sentence or a short list."""

    fits: bool
    needed: float
    available: float
    place: str
    advice: tuple[str, ...] = ()

    @property
    def tight(self) -> bool:
        """Fits with less than a tenth to spare, which is about how far off the estimate may be."""
        return self.fits and self.needed > 0.9 * self.available

    def __str__(self) -> str:
        relation = "fits, but only just" if self.tight else "fits" if self.fits else "does not fit"
        first = f"{relation}: needs {self.needed:.1f} GiB, {self.place} has {self.available:.1f} GiB"
        return "\n".join([first, *(f"  - {line}" for line in self.advice)])


def gpu(name: str) -> Gpu:
    """The card with this short name, such as t4. Raises ValueError, naming the known ones, for others."""
    known = _tables()[1]
    plain = "".join(c for c in name.lower() if c.isalnum() or c == "-")
    for short, card in known.items():
        if plain in (short, short.removeprefix("rtx"), short.replace("-", "")):
            return card
    raise ValueError(f"No card {name!r}. Known: {', '.join(known)}.")


def fits(needed: Estimate, place: "str | float | Gpu | Hardware") -> Verdict:
    """Compare with a card's short name, a number of GiB, or the detected `Hardware` (its free memory).

    If it does not fit, the verdict carries changes that would make it fit, each one estimated.
    """
    name, available = available_in(place)
    if needed.total <= available:
        return Verdict(True, needed.total, available, name)
    return Verdict(False, needed.total, available, name, tuple(_changes(needed, available)))


def available_in(place: "str | float | Gpu | Hardware") -> tuple[str, float]:
    """A place's name, and the GiB that it has: a card's short name, a number of GiB, or a machine (what is free)."""
    if isinstance(place, str):
        place = gpu(place)
    if isinstance(place, Gpu):
        return place.name, place.usable
    if isinstance(place, int | float):
        if isinstance(place, bool) or not 0 <= place < LARGEST:
            raise ValueError(f"The memory given must be a number of GiB, not {place!r:.40}.")
        return "the memory given", float(place)
    return place.gpu or "this machine", place.free_gb


def _changes(needed: Estimate, available: float) -> list[str]:
    """What would make it fit: one change, or else several together or a smaller model; a larger card."""
    changed = [(text, settings, needed.change(**settings)) for text, settings in options(needed)]
    advice = [f"{text}: {e.total:.1f} GiB" for text, _, e in changed if e.total <= available]
    if not advice:
        advice = _together(needed, available, [(t, s) for t, s, e in changed if e.total < needed.total])
        advice += _smaller(needed, available)
    larger = sorted((c for c in _tables()[1].values() if c.usable >= needed.total), key=lambda c: c.usable)
    return [
        *advice,
        f"a larger card: {larger[0].name} ({larger[0].usable} GiB)" if larger else "several cards",
    ]


def _together(needed: Estimate, available: float, options: list[tuple[str, dict]]) -> list[str]:
    """As many of the changes, in their order, as it takes; nothing if all of them are not enough."""
    said = []
    for text, settings in options:
        needed, said = needed.change(**settings), [*said, text]
        if needed.total <= available:
            return [f"{', '.join(said)}: {needed.total:.1f} GiB together"]
    return []


def _smaller(needed: Estimate, available: float) -> list[str]:
    """The largest model that fits with the same settings."""
    known = {name: needed.change(model=name).total for name in _tables()[0]}
    best = max((n for n, total in known.items() if total <= available), key=parameter_count, default=None)
    return [f"a smaller model, such as {best}: {known[best]:.1f} GiB"] if best else []


def options(needed: Estimate) -> list[tuple[str, dict]]:
    """What can be changed to need less: each in words, and as arguments of `Estimate.change`."""
    training = needed.method in TRAINING
    found = [("gradient checkpointing on", {"checkpointing": True})] if training else []
    found += [("the 8-bit optimiser", {"optimiser": "adamw-8bit"})] if training else []
    found += [("batch 1", {"batch": 1})]
    found += [(f"sequences of {s} tokens", {"seq": s}) for s in (2048, 1024, 512, 256) if s < needed.seq]
    smaller = {"full": ("lora", "qlora"), "lora": ("qlora",), "inference-fp32": INFERENCE[1:]}
    smaller |= {"inference-fp16": INFERENCE[2:], "inference-int8": INFERENCE[3:]}
    return found + [(f"{m} instead of {needed.method}", {"method": m}) for m in smaller.get(needed.method, ())]
