"""How much memory a language model needs, component by component, from its shape alone.

    estimate("mistral-7b", "qlora", seq=512).explain()

Every component is one short function with its formula and source, so that it can be checked by hand. All are
for decoder-only models of the Llama kind: RMSNorm, rotary positions, gated MLP or experts, attention that is grouped,
latent or in sliding windows. `counting` takes every other model.
Sizes are in bytes inside and in GiB (2^30 bytes) outside.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from course_utils.memory.shapes import (
    GIB,
    LARGEST,
    Architecture,
    all_matrices,
    architecture,
    lora_count,
    matrix_count,
    matrix_shapes,
    parameter_count,
    tables,
)

# Bits per weight of the formats that quantise matrices and leave embeddings, head and norms in 16 bits. NF4:
# 4 bits, and for each block of 64 weights a scale in 8 bits, and for each 256 scales one more in 32 bits
# (double quantisation: 0.127 bits a weight instead of 0.5; Dettmers et al. 2023, arXiv 2305.14314, section
# 3).
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# Bits per weight of whole GGUF files: Q8_0 is 32 weights of 8 bits and a 16-bit scale; the others are the
# averages for Llama 2 7B in the table that llama.cpp long published with its quantise tool.
GGUF_BITS = {"q8_0": 8.5, "q6_k": 6.56, "q5_k_m": 5.68, "q4_k_m": 4.84, "q3_k_m": 3.91, "q2_k": 3.35}
BITS = {"fp32": 32, "fp16": 16, "int8": 8, "nf4": NF4_BITS} | GGUF_BITS
INFERENCE = ("inference-fp32", "inference-fp16", "inference-int8", "inference-nf4")
GGUF = tuple(f"inference-{name}" for name in GGUF_BITS)
TRAINING = ("lora", "qlora", "full")
METHODS = INFERENCE + GGUF + TRAINING
# Optimiser state per trained parameter: AdamW keeps two fp32 numbers; the 8-bit one two bytes and their
# scales (Dettmers et al. 2021, arXiv 2110.02861: blocks of 256 in the library today).
OPTIMISERS = {"adamw": 8.0, "adamw-8bit": 2 + 2 * 4 / 256}
# What CUDA itself, its libraries and the allocator's gaps take beyond the tensors: a rule of ours, on the
# safe side.
RUNTIME_GIB = 0.6
RUNTIME_SHARE = 0.05


def weight_bytes(model: "str | Architecture", number_format: str = "fp16") -> float:
    """Bytes of the weights in fp32, fp16 (bf16 is the same), int8, nf4 or a GGUF format such as q4_k_m.

    int8 and nf4 hold only the matrices of the layers in few bits, and the rest (embeddings, head, norms) in
    16. int8 has one 32-bit scale for each output of a matrix (Dettmers et al. 2022, arXiv 2208.07339).
    """
    a = architecture(model)
    return stored_bytes(parameter_count(a), all_matrices(a), number_format)


def stored_bytes(parameters: int, matrices: Sequence[tuple[int, int, int]], number_format: str) -> float:
    """Bytes of so many parameters, of which those in `matrices` (inputs, outputs, how many) may be in few bits."""
    if number_format not in BITS:
        raise ValueError(f"No number format {number_format!r}. Known: {', '.join(BITS)}.")
    bits = BITS[number_format]
    if number_format not in ("int8", "nf4"):
        return parameters * bits / 8
    in_matrices = sum(inputs * outputs * number for inputs, outputs, number in matrices)
    outputs = sum(outputs * number for _, outputs, number in matrices)
    scales = 4 * outputs if number_format == "int8" else 0
    others = parameters - in_matrices
    return 2 * others + in_matrices * bits / 8 + scales


def kv_cache_bytes(model: "str | Architecture", seq: int, batch: int = 1, bytes_per_number: float = 2) -> float:
    """Bytes of the keys and values of `seq` tokens: 2 x layers x key width x tokens x batch.

    Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) makes the key width smaller than the
    hidden one. Latent attention keeps the latent in their place. A layer with a sliding window keeps the tokens that
    the next one will see: one less than the window.
    """
    a = architecture(model)
    in_window = min(seq, a.window - 1) if a.windowed else 0
    rows = (a.layers - a.windowed) * seq + a.windowed * in_window
    return a.cache_width * rows * batch * bytes_per_number


def layer_activation_bytes(model: "str | Architecture", method: str, seq: int, batch: int = 1) -> float:
    """Bytes that one layer keeps for its backward pass (when training), or holds at once (otherwise).

    Per token, in 16-bit numbers unless said otherwise: the 32-bit input of both norms, then q, k, v and the
    result of attention, then gate, its activation and up (in 32 bits for qlora, because the norms are and 4-bit
    layers answer in the format in which they are asked). No term grows with the square of `seq`: PyTorch's fused
    attention stores no scores (Dao et al. 2022, arXiv 2205.14135). On top comes what the trained matrices need:
    - full: the 16-bit input of every matrix (q, k, v share one, gate and up too) and of both norms;
    - lora, qlora: a 16-bit copy of its input for each of the seven adapters, as PEFT makes without dropout.
    Of a mixture it is the experts' part alone: how tokens are sorted to them differs from program to program.
    Counted in transformers' Llama with `memory/simulate.py`; the idea is that of Korthikanti et al. 2022,
    arXiv 2205.05198.
    """
    a = architecture(model)
    mlp = a.intermediate * a.active_experts + a.shared_intermediate
    norms = 2 * 4 * a.hidden
    attention = 2 * a.attention_width
    gated = (4 if method == "qlora" else 2) * 3 * mlp
    extra = 0
    if method in ("lora", "qlora"):
        extra = 2 * sum(inputs for inputs, _ in matrix_shapes(a, active=True))
    elif method == "full":
        extra = 2 * (2 * a.hidden + mlp) + 2 * 2 * a.hidden
    a_token = norms + attention + gated + extra
    wide = 2 if method == "inference-fp32" else 1
    return a_token * seq * batch * wide


def logit_bytes(model: "str | Architecture", method: str, seq: int, batch: int = 1) -> float:
    """Bytes for the scores over the vocabulary.

    Training: 12 for each of vocabulary x tokens: the fp32 log-softmax, its gradient and the logits' gradient.
    Inference: 4 each, for the last token only.
    """
    a = architecture(model)
    return a.vocab * batch * (12 * seq if method in TRAINING else 4)


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
    *,
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
    trained = _trained_count(a, method, rank)
    sizes = {
        "weights": _held_weight_bytes(a, method),
        "adapters": 4 * trained if method in ("lora", "qlora") else 0,
        "gradients": 4 * trained,
        "optimiser_state": OPTIMISERS[optimiser] * trained,
        "activations": _activation_bytes(a, method, seq, batch, checkpointing),
        "logits": logit_bytes(a, method, seq, batch),
        "kv_cache": _cache_bytes(a, method, seq, batch),
        "dequantised": _dequantised_bytes(a, method),
    }
    sizes["margin"] = RUNTIME_GIB * GIB + RUNTIME_SHARE * sum(sizes.values())
    settings = {
        "model": _name(model, a),
        "shape": a,
        "method": method,
        "seq": seq,
        "batch": batch,
        "rank": rank,
    }
    settings |= {"checkpointing": checkpointing, "optimiser": optimiser}
    in_gib = {name: size / GIB for name, size in sizes.items()}
    return Estimate(**settings, **in_gib)


def with_margin(tensors: float) -> float:
    """GiB that a card must have for `tensors` GiB of tensors: what the runtime takes comes on top."""
    share = RUNTIME_SHARE * tensors
    return RUNTIME_GIB + tensors + share


def number_format(method: str) -> str:
    """The format of the weights."""
    formats = {"lora": "fp16", "qlora": "nf4", "full": "fp32"}
    return formats.get(method, method.removeprefix("inference-"))


def _trained_count(a: Architecture, method: str, rank: int) -> int:
    """How many parameters are trained."""
    if method in ("lora", "qlora"):
        return lora_count(a, rank)
    return parameter_count(a) if method == "full" else 0


def _held_weight_bytes(a: Architecture, method: str) -> float:
    """Bytes of the weights; for qlora what is not 4-bit takes 32 bits instead of 16."""
    held = weight_bytes(a, number_format(method))
    if method == "qlora":
        held += 2 * (parameter_count(a) - matrix_count(a))
    return held


def _activation_bytes(a: Architecture, method: str, seq: int, batch: int, checkpointing: bool) -> float:
    """Bytes kept for the backward pass, or one layer's at inference."""
    layer = layer_activation_bytes(a, method, seq, batch)
    if method not in TRAINING:
        return layer
    if not checkpointing:
        return a.layers * layer
    wide = 4 if method == "qlora" else 2
    checkpoints = wide * a.hidden * seq * batch * a.layers
    logits = logit_bytes(a, method, seq, batch)
    return checkpoints + max(layer - logits, 0)


def _cache_bytes(a: Architecture, method: str, seq: int, batch: int) -> float:
    """Bytes of keys and values; training keeps none."""
    if method in TRAINING:
        return 0
    return kv_cache_bytes(a, seq, batch, number_bytes(method))


def number_bytes(method: str) -> int:
    """Bytes of a number in the cache of a method of inference."""
    return 4 if method == "inference-fp32" else 2


def _dequantised_bytes(a: Architecture, method: str) -> float:
    """Bytes of the largest 4-bit matrix (qlora: and the head) in 16 bits while it is used."""
    if number_format(method) != "nf4":
        return 0
    largest = max(inputs * outputs for inputs, outputs, _ in all_matrices(a))
    head = a.vocab * a.hidden if method == "qlora" else 0
    return 2 * (largest + head)


def _name(model: "str | Path | Architecture", shape: Architecture) -> str:
    for name, known in tables()[0].items():
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
