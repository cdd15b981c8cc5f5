"""Weights in few bits, by hand: rounding to nearest, GPTQ, and AWQ's scales, on the same grid.

All three return ordinary numbers that lie on a grid of 2^bits levels a group. So they show what a format loses; they
are neither smaller nor faster until something stores the levels (`models/k_quants.py` does).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

# Matrices of a Llama's layer that read the same numbers, and so share what is known about them.
READ_TOGETHER = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
POWERS = 10  # AWQ tries the powers 0, 1/10, ..., 1
DAMP = 0.01  # of the Hessian's mean diagonal, as in GPTQ's paper (its step 3)


# ---------------------------------------------------------------- the grid


def grid(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero of each group (groups, width): 2^bits even levels over its numbers."""
    low = groups.amin(1, keepdim=True).clamp(max=0)  # (groups, 1); 0 itself stays a level
    high = groups.amax(1, keepdim=True).clamp(min=0)
    steps = 2**bits - 1
    scale = (high - low) / steps
    scale = scale.clamp(min=1e-12)  # a group may be all zeros
    zero = (-low / scale).round()
    return scale, zero


def on_grid(weights: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The level nearest to each weight (groups, width), as a number again."""
    levels = (weights / scale).round() + zero
    levels = levels.clamp(0, 2**bits - 1)
    return (levels - zero) * scale


def round_to_nearest(weights: Tensor, bits: int, group: int = 64) -> Tensor:
    """`weights` (outputs, inputs), each on the nearest level of its group of `group` neighbours in a row.

    ValueError if a row is not made of whole groups.
    """
    check_groups(weights, group)
    groups = weights.float().reshape(-1, group)  # (groups, group)
    scale, zero = grid(groups, bits)
    rounded = on_grid(groups, scale, zero, bits)
    return rounded.reshape(weights.shape)


def check_groups(weights: Tensor, group: int) -> None:
    inputs = weights.shape[-1]
    if inputs % group:
        raise ValueError(f"Rows of {inputs} weights do not divide into groups of {group}: choose a divisor.")


def stored_bits(bits: int, group: int = 64) -> float:
    """Bits a weight takes in a file: its level, and its share of the group's scale (16 bits) and zero (`bits`)."""
    shared = 16 + bits
    return bits + shared / group


# ---------------------------------------------------------------- what the matrices read


@dataclass(frozen=True)
class Inputs:
    """What a matrix has read in the calibration text, X (tokens, inputs).

    `hessian` is X^T X, (inputs, inputs): half the second derivative of the squared error of the outputs. `sizes` is
    the mean of |X| for each input, (inputs,).
    """

    hessian: Tensor
    sizes: Tensor


def inputs_from(read: Tensor) -> Inputs:
    """The Inputs of what a matrix reads, (..., inputs)."""
    rows = read.reshape(-1, read.shape[-1]).float()  # (tokens, inputs)
    return Inputs(rows.T @ rows, rows.abs().mean(0))


def output_error(weights: Tensor, rounded: Tensor, inputs: Inputs) -> float:
    """|X W^T - X W'^T|^2: how far the outputs move, summed over outputs and calibration tokens."""
    change = rounded.float() - weights.float()  # (outputs, inputs)
    moved = change @ inputs.hessian
    return (moved * change).sum().item()


def outputs_moved(weights: Tensor, rounded: Tensor, inputs: Inputs) -> float:
    """|X W^T - X W'^T| / |X W^T|: 0 where the outputs stay, 1 where all weights became 0."""
    error = output_error(weights, rounded, inputs)
    whole = output_error(weights, torch.zeros_like(weights), inputs)
    return math.sqrt(error / whole)


# ---------------------------------------------------------------- GPTQ


def gptq(weights: Tensor, inputs: Inputs, bits: int, group: int = 64) -> Tensor:
    """`weights` (outputs, inputs) on the grid: what one column loses, the columns to come make up.

    GPTQ (arXiv 2210.17323, algorithm 1, without its blocks, which only save memory traffic). A
    group's grid is made from its weights as they are when its turn comes. ValueError if a row is
    not made of whole groups.
    """
    check_groups(weights, group)
    left = weights.float().clone()  # (outputs, inputs): what is still to be represented
    rounded = torch.zeros_like(left)
    factor = inverse_factor(inputs.hessian)  # (inputs, inputs), 0 below the diagonal
    for i in range(left.shape[1]):
        if i % group == 0:
            scale, zero = grid(left[:, i : i + group], bits)  # (outputs, 1) each
        column = left[:, i : i + 1]  # (outputs, 1)
        rounded[:, i : i + 1] = on_grid(column, scale, zero, bits)
        lost = column - rounded[:, i : i + 1]
        error = lost / factor[i, i]
        left[:, i + 1 :] -= error * factor[i, i + 1 :]  # (outputs, inputs to come)
    return rounded


def inverse_factor(hessian: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse (the paper's step 3), all that the columns need.

    ValueError if the calibration text gave nothing to read.
    """
    mean = hessian.diagonal().mean()
    if not mean > 0:
        raise ValueError("The calibration inputs are all zero: GPTQ needs a text that the matrix reads.")
    damped = hessian + DAMP * mean * torch.eye(len(hessian))
    lower = torch.linalg.cholesky(damped)
    inverse = torch.cholesky_inverse(lower)
    return torch.linalg.cholesky(inverse, upper=True)


# ---------------------------------------------------------------- AWQ


def awq(weights: Tensor, inputs: Inputs, bits: int, group: int = 64) -> Tensor:
    """`weights` rounded after the columns with large inputs were stretched (AWQ, arXiv 2306.00978, equation 4).

    The stretching is undone on the inputs, for which the norm before has room. Without the paper's clipping.
    """
    power = awq_power(weights, inputs, bits, group)
    return stretched(weights, inputs, power, bits, group)


def awq_power(weights: Tensor, inputs: Inputs, bits: int, group: int = 64) -> float:
    """The power with the least error of the outputs (equation 5); 0 is rounding to nearest."""
    best, least = 0.0, math.inf
    for step in range(POWERS + 1):
        power = step / POWERS
        rounded = stretched(weights, inputs, power, bits, group)
        error = output_error(weights, rounded, inputs)
        if error < least:
            best, least = power, error
    return best


def stretched(weights: Tensor, inputs: Inputs, power: float, bits: int, group: int) -> Tensor:
    """Each column times its input's mean size to the `power`, rounded, and divided again."""
    factors = inputs.sizes.clamp(min=1e-4) ** power  # (inputs,)
    middle = (factors.max() * factors.min()).sqrt()
    factors = factors / middle
    return round_to_nearest(weights * factors, bits, group) / factors


# ---------------------------------------------------------------- a whole model


Method = Callable[[Tensor, Inputs], Tensor]


@torch.no_grad()
def calibrated_copy(model: nn.Module, ids: Tensor, method: Method) -> nn.Module:
    """A copy of a Llama whose layers' matrices went through `method`; embeddings and norms stay as they are.

    `ids` (rows, tokens) is the calibration text. It goes through the copy once: each layer is changed as the text
    arrives, so it is judged by what the layers before it, already changed, hand on, as in GPTQ's paper.
    """
    copied = copy.deepcopy(model)
    hooks = []

    def change(layer: nn.Module, given: tuple, named: dict) -> None:
        # Not layer(...): that would call this function again.
        read = what_is_read(layer, partial(layer.forward, *given, **named))
        for names in READ_TOGETHER:
            replace(layer, names, method, read[names[0]])

    for layer in copied.model.layers:
        hooks.append(layer.register_forward_pre_hook(change, with_kwargs=True))
    copied.model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return copied


@torch.no_grad()
def what_is_read(layer: nn.Module, run: Callable[[], object]) -> dict[str, Inputs]:
    """The Inputs of each matrix of a Llama's `layer` while `run` is called, by the matrix's name."""
    read: dict[str, Inputs] = {}
    hooks = []

    def look(names: tuple[str, ...], _: nn.Module, given: tuple[Tensor]) -> None:
        shared = inputs_from(given[0])
        read.update(dict.fromkeys(names, shared))

    for names in READ_TOGETHER:
        first = layer.get_submodule(names[0])
        hooks.append(first.register_forward_pre_hook(partial(look, names)))
    run()
    for hook in hooks:
        hook.remove()
    return read


def replace(layer: nn.Module, names: tuple[str, ...], method: Method, inputs: Inputs) -> None:
    """Puts the matrices `names` through `method` as one, their outputs below each other."""
    modules = [layer.get_submodule(name) for name in names]
    sizes = [len(module.weight) for module in modules]
    together = torch.cat([module.weight for module in modules])  # (outputs of all, inputs)
    changed = method(together, inputs)
    for module, part in zip(modules, changed.split(sizes), strict=True):
        module.weight.copy_(part)
