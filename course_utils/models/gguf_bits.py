"""The number formats of a GGUF file: which tensor is stored in which, and the rounding itself.

The simple formats (Q8_0, Q5_0, Q4_0) are rounded by the package gguf, in Python. The K formats (Q4_K, Q6_K) it can
only read: for them llama.cpp's own function is called, inside the compiled part of the package xllamacpp.
"""

from typing import TYPE_CHECKING, Any

from course_utils import colab

if TYPE_CHECKING:
    import numpy as np

# The format of a file as it is called, and the format of most of its matrices.
FORMATS = {
    "f16": "F16",
    "q8_0": "Q8_0",
    "q5_0": "Q5_0",
    "q4_0": "Q4_0",
    "q6_k": "Q6_K",
    "q4_k_m": "Q4_K",
    "q2_k": "Q2_K",
}
FINER = "Q6_K"  # what the mixed files give to the tensors that matter most
MIXED = ("q4_k_m",)


def format_of(name: str, layers: int, bits: str) -> str:
    """The format of the matrix `name` (in GGUF's words) in a file called `bits`, as llama.cpp's quantise tool chooses.

    Q4_K_M spends 6 bits on the table of embeddings, where that is the head, too, and on two matrices in half of
    the layers: the first and the last eighth, and every third one between. ValueError for an unknown name.
    """
    if bits not in FORMATS:
        raise ValueError(f"no GGUF format {bits!r} to write; there are {', '.join(FORMATS)}")
    if bits not in MIXED:
        return FORMATS[bits]
    if name.startswith(("token_embd", "output")):
        return FINER
    if not name.endswith(("attn_v.weight", "ffn_down.weight")):
        return FORMATS[bits]
    layer = int(name.split(".")[1])
    eighth = layers // 8
    between = (layer - eighth) % 3 == 2
    finer = layer < eighth or layer >= 7 * layers // 8 or between
    return FINER if finer else FORMATS[bits]


def rounded(rows: "np.ndarray", form: str) -> "tuple[np.ndarray, Any]":
    """The rows of a matrix in a GGUF format, as bytes, and gguf's name of the format.

    ValueError for rows that cannot be cut into the format's blocks.
    """
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[form]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if rows.shape[-1] % block:
        raise ValueError(f"{form} stores blocks of {block} numbers, and these rows have {rows.shape[-1]}: take q8_0")
    whole = np.ascontiguousarray(rows, dtype=np.float32)
    try:
        return gguf.quants.quantize(whole, kind), kind
    except NotImplementedError:
        return _by_llama_cpp(whole, kind), kind


def _by_llama_cpp(rows: "np.ndarray", kind: Any) -> "np.ndarray":
    """`ggml_quantize_chunk` of llama.cpp. ValueError where the package is missing or keeps it to itself."""
    import ctypes

    import gguf
    import numpy as np

    function = _quantise_function(kind.name)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count, width = rows.shape
    packed = np.zeros((count, width // block * size), np.uint8)
    place, target = rows.ctypes.data, packed.ctypes.data
    # format, numbers, where to, first number, rows, width, and weights of importance: none
    written = function(int(kind), place, target, 0, count, ctypes.c_int64(width), None)
    if written != packed.nbytes:
        raise ValueError(f"llama.cpp wrote {written} bytes of {kind.name}, and {packed.nbytes} were expected")
    return packed


def _quantise_function(name: str) -> Any:
    import ctypes

    try:
        import xllamacpp

        function = ctypes.CDLL(xllamacpp.xllamacpp.__file__).ggml_quantize_chunk
    except ImportError:
        needed = f"needs the package xllamacpp: {colab.how_to_add('xllamacpp')}"
        raise ValueError(f"{name} {needed}, or take q8_0 or q4_0") from None
    except (AttributeError, OSError):
        raise ValueError(f"this build of xllamacpp does not offer {name}: take q8_0 or q4_0") from None
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    function.restype = ctypes.c_size_t
    return function
