"""The matrices inside a language model: what quantisation shrinks and LoRA goes beside."""

from torch import nn


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers by name, except the one that names the next token."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            found[name] = module
    return found
