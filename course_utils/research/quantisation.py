"""Weights in few bits, in groups, and what a model loses by it."""

from torch import Tensor

from course_utils.models.layers import changed_copy, megabytes

__all__ = ["megabytes", "nf4", "quantise", "quantised_copy"]

quantised_copy = changed_copy


def quantise(weights: Tensor, bits: int, group: int = 64) -> Tensor:
    """`weights` rounded to `bits` bits in groups that share a scale, and back to ordinary numbers.

    Two bits and more: whole numbers from -m to m with m = 2^(bits - 1) - 1; the largest weight of a
    group becomes m. One bit: the sign, times the mean size of the group (arXiv 1603.05279).
    """
    groups = weights.float().reshape(-1, group)  # (groups, group)
    sizes = groups.abs()
    if bits == 1:
        scale = sizes.mean(1, keepdim=True)  # (groups, 1)
        steps = groups.sign()
    else:
        most = 2 ** (bits - 1) - 1
        largest = sizes.amax(1, keepdim=True).clamp(min=1e-12)  # a group may be all zeros
        scale = largest / most  # (groups, 1)
        steps = (groups / scale).round()
    rounded = steps * scale
    return rounded.reshape(weights.shape).to(weights.dtype)


def nf4(weights: Tensor) -> Tensor:
    """The same round trip through bitsandbytes' 4-bit NormalFloat (arXiv 2305.14314) in blocks of 64."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weights.float().contiguous(), blocksize=64, quant_type="nf4")
    return dequantize_4bit(packed, state).to(weights.dtype)
