"""LoRA by hand (Hu et al. 2021, arXiv 2106.09685), and PEFT's weights copied into it."""

from __future__ import annotations

import math

import torch
from torch import nn

from course_utils.models.layers import linear_layers


class LoRALinear(nn.Module):
    """A frozen W with a trained change of low rank: W + (alpha / r) B A (arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base = base.requires_grad_(False)
        start = torch.randn(rank, base.in_features)
        zeros = torch.zeros(base.out_features, rank)
        self.A = nn.Parameter(start / rank)
        self.B = nn.Parameter(zeros)  # so training starts from W
        self.scale = alpha / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = x @ self.A.T  # (..., rank)
        change = narrow @ self.B.T  # (..., outputs)
        return self.base(x) + self.scale * change

    def merge(self) -> nn.Linear:
        """One linear layer again, with W' as its weight."""
        change = self.scale * (self.B @ self.A)  # (outputs, inputs)
        self.base.weight.data += change.data
        return self.base


def add_lora(model: nn.Module, rank: int, alpha: float) -> dict[str, LoRALinear]:
    """Freeze `model` and put a LoRALinear in the place of each of its linear layers. Returns them by name."""
    model.requires_grad_(False)
    added = {name: LoRALinear(layer, rank, alpha) for name, layer in linear_layers(model).items()}
    for name, layer in added.items():
        model.set_submodule(name, layer)
    return added


def copy_from_peft(peft_model: nn.Module, ours: dict[str, LoRALinear]) -> None:
    """Give our adapters the weights of PEFT's. KeyError if a layer has none there."""
    theirs = dict(peft_model.base_model.model.named_modules())
    for name, layer in ours.items():
        layer.A.data.copy_(theirs[name].lora_A["default"].weight)
        layer.B.data.copy_(theirs[name].lora_B["default"].weight)


def parameters(model: nn.Module) -> dict[str, int]:
    """How many parameters are trained, and how many there are. 4-bit matrices count weights, not bytes."""
    counts = {"trained": 0, "all": 0}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        size = math.prod(state.shape) if state else parameter.numel()
        counts["all"] += size
        counts["trained"] += size if parameter.requires_grad else 0
    return counts
