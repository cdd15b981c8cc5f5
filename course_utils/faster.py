"""Libraries' own steps in another order or number format, with the same result in less time."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any


@contextmanager
def whole_scores() -> Iterator[None]:
    """Inside, on a CPU, the head of TRL's supervised trainer works out all scores at once, as the model would.

    In pieces, it multiplies their gradients in fp32: where bf16 is fast, this takes three times as long as the whole
    head does, and a tenth more for a step of prisma-lm. With all scores in memory, the step is simulated without
    `fused_head`.
    """
    from unittest.mock import patch

    from torch.nn import functional
    from trl.trainer import utils

    pieces = getattr(utils, "_ChunkedLogProbFunction", None)
    if pieces is None:
        yield
        return

    def apply(hidden: Any, weight: Any, bias: Any, targets: Any, *how: Any) -> tuple:
        temperature, _, softcap, scale, wanted = how
        plain = (temperature, softcap, scale) == (1, None, 1) and set(wanted) <= {"log_probs", "entropy", "is_top1"}
        if not plain or hidden.device.type != "cpu":
            return pieces.apply(hidden, weight, bias, targets, *how)
        scores = functional.linear(hidden, weight, bias).float()
        log_probs = scores.log_softmax(-1)
        known = log_probs.detach()
        entropy = -known.exp().mul_(known).sum(-1)
        return log_probs.gather(1, targets[:, None])[:, 0], entropy, None, None, scores.argmax(-1) == targets

    with patch.object(utils, "_ChunkedLogProbFunction", SimpleNamespace(apply=apply)):
        yield


@contextmanager
def adapter_first() -> Iterator[None]:
    """Inside, PEFT's 4-bit layers work out their adapter before their matrix. The sum is the same.

    Gradient checkpointing repeats a block of the model only as far as something in it was saved. Of a frozen 4-bit
    product nothing is, but PEFT's adapter comes after it and has to be repeated. In this order the last product of
    each block is left out: a twelfth of a step at 7B.
    """
    from unittest.mock import patch

    import torch
    from peft.tuners.lora.bnb import Linear4bit

    as_in_peft = Linear4bit.forward

    def forward(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        active = [name for name in self.active_adapters if name in self.lora_A]
        special = args or kwargs or self.disable_adapters or self.merged or self.lora_variant
        if special or len(active) != 1:
            return as_in_peft(self, x, *args, **kwargs)
        a, b, dropout = (part[active[0]] for part in (self.lora_A, self.lora_B, self.lora_dropout))
        read = x if torch.is_autocast_enabled(x.device.type) else self._cast_input_dtype(x, a.weight.dtype)
        change = b(a(dropout(read))) * self.scaling[active[0]]
        result = self.base_layer(x)
        return result + change.to(result.dtype)

    with patch.object(Linear4bit, "forward", forward):
        yield


def newton_schulz(
    grad: Any, ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float
) -> Any:  # fmt: skip
    """The nearest matrix to `grad` (d, k) with singular values near 1, as `torch.optim.Muon` has it, in its own format.

    Each step of the iteration is a polynomial a X + b X X'X + c (X X')^2 X (arXiv 2502.16982, section 2.1).
    """
    import torch

    a, b, c = ns_coefficients
    tall = grad.size(0) > grad.size(1)
    x = grad.T if tall else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        change = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, change, x, beta=a)
    return x.T if tall else x


@contextmanager
def muon_without_bfloat16(kind: str) -> Iterator[None]:
    """Inside, `torch.optim.Muon` works in fp32 on devices of this `kind` that have no units for bfloat16.

    It asks for bfloat16 whatever the device: on an older CPU a step of prisma-lm then takes a minute.
    """
    from unittest.mock import patch

    from torch.optim import _muon

    from course_utils.models import hardware

    name = "_zeropower_via_newtonschulz"
    if hardware.multiplies_bfloat16(kind) or not hasattr(_muon, name):
        yield
        return
    with patch.object(_muon, name, newton_schulz):
        yield
