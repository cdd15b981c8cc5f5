"""Memory for time: activations that are thrown away and computed again."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from course_utils.memory.simulate import Ledger


class Again(torch.autograd.Function):
    """A block that keeps only its input, and runs once more when the gradient comes (arXiv
    1604.06174).
    """

    @staticmethod
    def forward(ctx, x: Tensor, block: nn.Module) -> Tensor:
        ctx.block = block
        ctx.save_for_backward(x)
        with torch.no_grad():
            return block(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.block(x)
        y.backward(gradient)  # the block's weights receive their gradients here
        return x.grad, None


def again(block: nn.Module, x: Tensor) -> Tensor:
    """The result of `block` for x, by `Again`; x must want a gradient, or nothing would call it back."""
    if not x.requires_grad:
        raise ValueError("x wants no gradient, so the block would get none either: call x.requires_grad_() first.")
    return Again.apply(x, block)


def by_pytorch(block: nn.Module, x: Tensor) -> Tensor:
    """The same by PyTorch."""
    return checkpoint.checkpoint(block, x, use_reentrant=False)


class Block(nn.Module):
    """A residual MLP: x + V gelu(W norm(x)), `width` numbers in and out, four times as many inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.inside = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


def stack(depth: int, width: int, seed: int) -> nn.Sequential:
    """`depth` blocks with random weights from `seed`."""
    torch.manual_seed(seed)
    blocks = [Block(width) for _ in range(depth)]
    return nn.Sequential(*blocks)


def segments(blocks: nn.Sequential, size: int) -> list[nn.Sequential]:
    """The blocks in stretches of `size`; the last may be shorter. ValueError for a size below 1."""
    if size < 1:
        raise ValueError(f"Stretches of {size} blocks: take at least 1.")
    starts = range(0, len(blocks), size)
    return [blocks[start : start + size] for start in starts]


def run(blocks: nn.Sequential, x: Tensor, size: int | None, way: Callable = by_pytorch) -> Tensor:
    """The result for x; of each stretch of `size` blocks only the input is kept (None: everything is)."""
    if size is None:
        return blocks(x)
    for segment in segments(blocks, size):
        x = way(segment, x)
    return x


@dataclass(frozen=True)
class Cost:
    """What one step, forward and backward, cost: MiB at the peak beyond weights and input, milliseconds."""

    mib: float
    milliseconds: float


def cost(blocks: nn.Sequential, x: Tensor, size: int | None, rounds: int = 3) -> Cost:
    """The Cost of a step with stretches of `size` blocks; the time is the fastest of `rounds`.

    Time is measured without the counting. The gradients of the weights count as memory, as they do in a training. What
    operators take inside is not seen.
    """
    with Ledger() as ledger:
        for known in (x, *blocks.parameters()):
            known.detach()  # a view: now the ledger knows what was there before
        before = ledger.total
        step(blocks, x, size)
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        step(blocks, x, size)
        passed = time.perf_counter() - begun
        times.append(passed)
    fastest = min(times)
    return Cost((ledger.highest - before) / 2**20, 1000 * fastest)


def step(blocks: nn.Sequential, x: Tensor, size: int | None) -> None:
    """Forward and backward once, from no gradients at all."""
    blocks.zero_grad(set_to_none=True)
    x = x.detach().requires_grad_()
    y = run(blocks, x, size)
    loss = y.square().mean()
    loss.backward()
