"""The matrices inside a language model: what quantisation shrinks and LoRA goes beside."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers by name, except the one that names the next token."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            found[name] = module
    return found


def changed_copy(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of `model` whose matrices went through `change`; embeddings and norms stay as they are."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for module in linear_layers(copied).values():
            module.weight.copy_(change(module.weight))
    return copied


def megabytes(model: nn.Module, bits: float) -> float:
    """Size in 10^6 bytes if the matrices take `bits` bits a weight, scales included, and the rest 16."""
    inside = sum(module.weight.numel() for module in linear_layers(model).values())
    everything = sum(p.numel() for p in model.parameters())
    return (inside * bits + (everything - inside) * 16) / 8e6
