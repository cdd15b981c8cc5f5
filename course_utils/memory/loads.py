"""How long a context fits on a card, and how fast text can come at most: for shapes, counted models, GGUF files.

    load = of_shape(shapes.architecture("mistral-7b"), "inference-nf4")
    load.longest_context(available=14.7), load.tokens_a_second(bandwidth=320, tokens=4096)

Writing one token reads every weight that takes part in it, and the whole cache. No card answers faster than its
memory delivers these bytes: bandwidth divided by bytes is an upper bound (Pope et al. 2022, arXiv 2211.05102,
section 2.1, for one conversation at a time). Real programs reach a part of it.
"""

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

from course_utils.memory import configs, formulas
from course_utils.memory.configs import NotCountedError
from course_utils.memory.counting import CacheLayer, Counted
from course_utils.memory.shapes import GIB, LARGEST, Architecture, all_matrices, parameter_count
from course_utils.models.gguf_header import Header

LONGEST = 2**30  # tokens; where there is no cache, nothing else ends the search


@dataclass(frozen=True)
class Load:
    """A model in one number format, ready to write. Sizes in bytes; `read` of the weights, for each token."""

    name: str
    weights: float
    read: float
    cache: Callable[[int], float]  # bytes for a conversation of so many tokens
    context: int | None = None  # tokens that the model was made for

    def needed(self, tokens: int) -> float:
        """GiB for a conversation of `tokens` tokens, with the runtime's margin.

        The prompt is read in pieces, as servers do it: so the working memory of a layer stays small, and the margin
        covers it. `formulas.estimate` is for a prompt that is read at once.
        """
        cache = self.cache(tokens)
        held = (self.weights + cache) / GIB
        return formulas.with_margin(held)

    def longest_context(self, available: float) -> int:
        """The longest conversation in tokens that fits into `available` GiB; 0 if not even one token does.

        LONGEST for a model that keeps the same for any length. It may be more than the model was made for.
        """
        return bisect.bisect_right(range(1, LONGEST + 1), available, key=self.needed)

    def tokens_a_second(self, bandwidth: float, tokens: int) -> float:
        """At most so many tokens a second, after `tokens` tokens, from memory that delivers `bandwidth` GB/s."""
        cache = self.cache(tokens)
        moved = self.read + cache
        return bandwidth * 1e9 / moved


# ---------------------------------------------------------------------------------------------- shapes


def of_shape(shape: Architecture, method: str) -> Load:
    """By the formulas. ValueError for a method that trains."""
    number_format = weight_format(method)
    width = formulas.number_bytes(method)

    def cache(tokens: int) -> float:
        return formulas.kv_cache_bytes(shape, tokens, 1, width)

    # A token reads one row of its embeddings, and the experts that are asked.
    embeddings = 0 if shape.tied else shape.vocab * shape.hidden
    used = parameter_count(shape, active=True) - embeddings
    read = formulas.stored_bytes(used, all_matrices(shape, active=True), number_format)
    return Load(shape.id, formulas.weight_bytes(shape, number_format), read, cache, shape.context)


def weight_format(method: str) -> str:
    """The number format in a method of inference. ValueError for one that trains, and for an unknown one."""
    formulas.check(method, "adamw")
    if method in formulas.TRAINING:
        raise ValueError(f"{method} trains; a context is kept by these: {', '.join(formulas.INFERENCE)}.")
    return formulas.number_format(method)


def counted_in(method: str) -> str:
    """The number format, as torch names it, in which a model is counted for this method."""
    return "float32" if method == "inference-fp32" else "bfloat16"


# ---------------------------------------------------------------------------------------------- counted models


def of_counted(counted: Counted, method: str) -> Load:
    """From what was counted. NotCountedError if its cache, or how many experts a token uses, is not known."""
    number_format = weight_format(method)
    if counted.bytes_a_number != formulas.number_bytes(method):
        raise ValueError(f"For {method} count it with dtype={counted_in(method)}.")
    weights = weight_bytes(counted, number_format)
    return Load(counted.id, weights, read_bytes(counted, number_format), counted.cache_bytes, counted.context)


def weight_bytes(counted: Counted, number_format: str) -> float:
    """Bytes of all weights; in int8 and nf4 only those of linear layers are in few bits, as bitsandbytes does it.

    Experts that a model holds in one tensor for each layer are no linear layers, and stay in 16 bits.
    """
    return formulas.stored_bytes(counted.parameters, counted.linear, number_format)


def read_bytes(counted: Counted, number_format: str) -> float:
    """Bytes of the weights that are read to write one token."""
    towers = {(inputs, outputs): number for inputs, outputs, number in counted.tower_linear}
    read = [(i, o, number - towers.get((i, o), 0)) for i, o, number in counted.linear]
    return formulas.stored_bytes(counted.used, read, number_format)


def parts(counted: Counted, method: str, seq: int, batch: int, rank: int = 16) -> dict[str, float]:
    """GiB by part, by counting alone: everything but activations and logits, which a simulation tells.

    As in `formulas`: adapters, gradients and AdamW's averages in fp32; for qlora what is not 4-bit is in fp32.
    """
    trains = method in formulas.TRAINING
    number_format = formulas.number_format(method)
    weights = weight_bytes(counted, number_format)
    if method == "qlora":
        others = counted.parameters - counted.linear_parameters
        weights += 2 * others
    trained = _trained(counted, method, rank)
    keeps = not trains and not counted.no_cache
    sizes = {
        "weights": weights,
        "adapters": 4 * trained if method != "full" else 0,
        "gradients": 4 * trained,
        "optimiser state": formulas.OPTIMISERS["adamw"] * trained,
        "kv cache": counted.cache_bytes(seq, batch) if keeps else 0,
    }
    return {part: size / GIB for part, size in sizes.items()}


def _trained(counted: Counted, method: str, rank: int) -> int:
    """How many parameters are trained."""
    if method in ("lora", "qlora"):
        return sum(rank * (inputs + outputs) * number for inputs, outputs, number in counted.linear)
    return counted.parameters if method == "full" else 0


# ---------------------------------------------------------------------------------------------- GGUF files


def of_header(header: Header, name: str) -> Load:
    """From the header of a GGUF file: its weights as they are, and a cache in 16 bits, as llama.cpp keeps it."""
    layers = gguf_cache(header)

    def cache(tokens: int) -> float:
        return sum(layer.bytes(tokens) for layer in layers)

    read = header.weight_bytes - _idle_tensors(header)
    return Load(name, header.weight_bytes, read, cache, _whole(header, "context_length"))


def _idle_tensors(header: Header) -> float:
    """Bytes of the weights that one token does not read: its embeddings but one row, and experts not asked."""
    sizes = {tensor.name: tensor.bytes for tensor in header.tensors}
    embeddings = sizes.get("token_embd.weight", 0) if "output.weight" in sizes else 0
    experts = sum(size for name, size in sizes.items() if "_exps." in name)
    if not experts:
        return embeddings
    number = _whole(header, "expert_count") or 0
    asked = _whole(header, "expert_used_count") or number + 1
    if asked > number:
        raise NotCountedError("The file does not say how many of its experts a token uses (expert_used_count).")
    idle_share = (number - asked) / number
    return embeddings + experts * idle_share


def _whole(header: Header, name: str) -> int | None:
    """A whole number above 0 that the file says about its architecture; None if it says none."""
    value = header.about(name)
    return value if type(value) is int and 0 < value < LARGEST else None


# Architectures of llama.cpp that keep keys and values of every layer for every token, and nothing else.
PLAIN = """
    llama qwen2 qwen2moe qwen3 qwen3moe phi2 phi3 gemma gpt2 gptneox falcon starcoder starcoder2 olmoe granite
    granitemoe smollm3 stablelm internlm2 command-r bloom baichuan xverse arcee ernie4_5 glm4 exaone nemotron refact
    """.split()
# Every so many layers one without a window, the others with one (set_swa_pattern in llama.cpp's src/llama-model.cpp).
WINDOWED = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}
PIECE, PADDING = 512, 256  # a window's cache holds the piece that is being read, too (src/llama-kv-cache-iswa.cpp)


def gguf_cache(header: Header) -> tuple[CacheLayer, ...]:
    """What each layer keeps when llama.cpp runs the file, in 16 bits.

    NotCountedError for an architecture of which the file does not say enough.
    """
    kind = header.architecture
    if kind not in PLAIN and kind not in WINDOWED:
        raise NotCountedError(
            f"The parameters and weights of this {kind!r} file are counted; its cache is not known, because the "
            "header does not say how its layers keep it. Ask for the config.json of the same model."
        )
    layers = _whole(header, "block_count") or 0
    width = _whole(header, "embedding_length")
    heads = header.about("attention.head_count")
    first = heads[0] if isinstance(heads, list) and heads else heads
    if not width or not 1 <= layers <= configs.MOST_LAYERS or not _is_count(first) or first < 1:
        raise NotCountedError(f"The header of this {kind!r} file lacks block_count, embedding_length or head_count.")
    kv_heads = header.about("attention.head_count_kv", heads)
    in_each = kv_heads if isinstance(kv_heads, list) else [kv_heads] * layers
    if len(in_each) != layers or not all(map(_is_count, in_each)):
        raise NotCountedError(f"head_count_kv of this {kind!r} file does not fit its {layers} layers: it is damaged.")
    head = width // first
    key = _whole(header, "attention.key_length") or head
    value = _whole(header, "attention.value_length") or head
    bytes_a_head = 2 * (key + value)
    windows = _windows(header, layers)
    return tuple(CacheLayer(number * bytes_a_head, most) for number, most in zip(in_each, windows, strict=True))


def _is_count(value: object) -> bool:
    """Whether a value of a header can be a number of heads."""
    return type(value) is int and 0 <= value < LARGEST


def _windows(header: Header, layers: int) -> list[int | None]:
    """For each layer how many tokens it keeps at most; None for all."""
    every = WINDOWED.get(header.architecture)
    window = _whole(header, "attention.sliding_window")
    if not every or not window:
        return [None] * layers
    blocks = math.ceil((window + PIECE) / PADDING)
    windows: list[int | None] = [blocks * PADDING] * layers
    for number in range(every - 1, layers, every):
        windows[number] = None
    return windows
