"""One small model from several seeds, trained at once: a stack of weights, and one step for all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from course_utils import figures


@dataclass(frozen=True)
class Seeds:
    """Models of one shape. `weights` and `buffers` hold each tensor once for every seed: (seeds, ...)."""

    shape: nn.Module
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    def __call__(self, inputs: Tensor) -> Any:
        """What every model makes of its own inputs (seeds, batch, ...)."""
        return vmap(self._of_one)(self.weights, self.buffers, inputs)

    def _of_one(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Any:
        return functional_call(self.shape, (weights, buffers), (inputs,))

    @property
    def parameters(self) -> int:
        """Of one model."""
        return sum(parameter.numel() for parameter in self.shape.parameters())


def build(make: Callable[[], nn.Module], seeds: Sequence[int]) -> Seeds:
    """The models that `make` builds after each seed. ValueError without a seed."""
    if not seeds:
        raise ValueError("Name at least one seed.")
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(make())
    weights, buffers = stack_module_state(models)
    return Seeds(models[0], weights, buffers)


def train(
    models: Seeds,
    loss: Callable[[Seeds, torch.Generator], Tensor],
    steps: int,
    seed: int,
    rate: float = 3e-3,
) -> list[list[float]]:
    """Change `models` in place by `steps` steps of AdamW; returns the losses, a list of one for
    each seed a step.

    `loss` draws a batch with the generator and gives (seeds,) losses. The models share a step and
    nothing else: no weight of one is in the loss of another. The rate rises over 5 % of the steps
    and falls to zero in a line.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(models.weights.values(), lr=rate, weight_decay=0.01)
    losses = []
    for step in figures.progress(range(steps), "Training"):
        warm = (step + 1) / (0.05 * steps)
        cold = 1 - step / steps
        optimiser.param_groups[0]["lr"] = rate * min(warm, cold)
        own = loss(models, generator)  # (seeds,)
        optimiser.zero_grad()
        own.sum().backward()
        optimiser.step()
        losses.append(own.tolist())
    return losses
