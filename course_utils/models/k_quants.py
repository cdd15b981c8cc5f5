"""llama.cpp's own number formats. The package gguf rounds to the plain ones, in Python; the K formats it can only read.

For those the very code is called that `llama-quantize` uses. xllamacpp brings it along but shows no name for it to
Python, so it is called through the library's C interface (`ggml_quantize_chunk` in ggml.h). The packages for Linux and
macOS show it, the one for Windows hides it.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from course_utils import colab

if TYPE_CHECKING:
    import numpy as np

# Bits a weight takes, scales included, in the formats that the course uses (ggml-common.h).
BITS = {"Q8_0": 8.5, "Q6_K": 6.5625, "Q5_0": 5.5, "Q4_K": 4.5, "Q4_0": 4.5, "Q3_K": 3.4375, "Q2_K": 2.625}
PLAIN = ("Q8_0", "Q5_0", "Q4_0")


@functools.cache
def packer() -> Any:
    """The C function that packs numbers. RuntimeError, saying what is missing, where there is none."""
    try:
        import xllamacpp.xllamacpp as compiled
    except ImportError as error:
        cure = f"{colab.how_to_add('xllamacpp')}, or take Q8_0 or Q4_0"
        raise RuntimeError(f"k-quants need the package xllamacpp (llama.cpp): {cure}") from error
    try:
        pack = ctypes.CDLL(compiled.__file__).ggml_quantize_chunk
    except (AttributeError, OSError) as error:
        hidden = "this build of xllamacpp hides the function that makes k-quants: take Q8_0 or Q4_0"
        raise RuntimeError(hidden) from error
    # The format, the numbers, where the result goes, the first number, rows, numbers a row, weights of the inputs.
    pack.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    pack.restype = ctypes.c_size_t
    return pack


def why_not() -> str:
    """Why this machine makes no k-quants; "" where it does."""
    try:
        packer()
    except RuntimeError as error:
        return str(error)
    return ""


def packed(weights: Tensor, kind: str) -> np.ndarray:
    """`weights` (outputs, inputs) in the format `kind`, a key of BITS, as bytes: (outputs, bytes a row).

    ValueError for another format, or rows that are not made of whole blocks; RuntimeError where `why_not` says so.
    """
    import gguf

    if kind not in BITS:
        raise ValueError(f"no format {kind!r}; there are {', '.join(BITS)}")
    code = gguf.GGMLQuantizationType[kind]
    block, _ = gguf.GGML_QUANT_SIZES[code]
    inputs = weights.shape[1]
    if inputs % block:
        raise ValueError(f"{kind} packs blocks of {block} weights, and a row has {inputs}: take Q8_0, or another model")
    if kind in PLAIN:
        return gguf.quants.quantize(weights.detach().float().numpy(), code)
    return by_llama_cpp(weights, kind)


def by_llama_cpp(weights: Tensor, kind: str) -> np.ndarray:
    """What `packed` gives, by llama.cpp's code whatever the format."""
    import gguf
    import numpy as np

    code = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[code]  # weights and bytes of a block
    outputs, inputs = weights.shape
    numbers = weights.detach().float().contiguous().numpy()
    result = np.empty((outputs, inputs // block * size), np.uint8)
    packer()(int(code), numbers.ctypes.data, result.ctypes.data, 0, outputs, inputs, None)
    return result


def unpacked(data: np.ndarray, kind: str) -> Tensor:
    """The numbers in bytes from `packed`, (outputs, inputs), read by the package gguf."""
    import gguf
    from gguf.quants import dequantize

    return torch.from_numpy(dequantize(data, gguf.GGMLQuantizationType[kind]))


def through(weights: Tensor, kind: str) -> Tensor:
    """`weights` (outputs, inputs) as they come back from the format `kind`."""
    data = packed(weights, kind)
    return unpacked(data, kind)
