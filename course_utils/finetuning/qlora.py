"""What to train with, and whether it fits this machine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch

from course_utils import compat
from course_utils.finetuning.four_bit import check_method, training_device, training_dtype
from course_utils.memory import formulas, shapes, simulate
from course_utils.memory.simulate import Step

if TYPE_CHECKING:
    from course_utils.models.hardware import Hardware
    from course_utils.models.roles import Chat


class NotEnoughMemoryError(RuntimeError):
    """Training would run out of memory, whatever is made smaller. The message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """How to train: by `method` "qlora", "lora" or "full", with the validation loss measured `measured` times.

    `batch` conversations make one step; `at_once` of them are in memory together. ValueError for another method, for
    what is no number or too small, and for an `at_once` that `batch` can't be made of.
    """

    learning_rate: float
    conversations: int = 1600
    epochs: float = 1.0
    batch: int = 16
    at_once: int = 16
    max_length: int = 512
    checkpointing: bool = False
    rank: int = 16
    alpha: int = 32
    seed: int = 7
    method: str = "qlora"
    measured: int = 5

    def __post_init__(self) -> None:
        check_method(self.method)
        for name in ("learning_rate", "epochs"):
            object.__setattr__(self, name, _above_zero(name, getattr(self, name)))
        for name in ("conversations", "batch", "at_once", "max_length", "rank", "alpha", "measured"):
            object.__setattr__(self, name, _whole_number(name, getattr(self, name), least=1))
        object.__setattr__(self, "seed", _whole_number("seed", self.seed, least=0))
        if not isinstance(self.checkpointing, bool):
            raise ValueError(f"checkpointing must be True or False, not {self.checkpointing!r}.")
        if self.batch % self.at_once:
            raise ValueError(
                f"A batch of {self.batch} can't be made of {self.at_once} conversations at once. The nearest at_once "
                f"that works is {_nearest(self.at_once, divisors(self.batch))}."
            )

    @property
    def steps(self) -> int:
        return math.ceil(self.epochs * math.ceil(self.conversations / self.batch))


def _above_zero(name: str, value: Any) -> float:
    """`value` as a float. ValueError if it is no number above zero."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0, written without quotation marks, not {value!r}.")
    return float(value)


def _whole_number(name: str, value: Any, least: int) -> int:
    """`value` as an int. ValueError if it is no whole number, or below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value < 2**32:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return int(value)


def divisors(n: int) -> list[int]:
    """The numbers that divide `n`, the largest first."""
    return [d for d in range(n, 0, -1) if n % d == 0]


def _nearest(wanted: int, numbers: Sequence[int]) -> int:
    return min(numbers, key=lambda number: abs(number - wanted))


# A small model needs, and bears, a much higher rate than a large one.
RECIPES = {
    "bundled": Recipe(learning_rate=4e-3, epochs=1.5, batch=8, at_once=8),
    "small": Recipe(learning_rate=5e-4, conversations=600, at_once=4, checkpointing=True),
    "full": Recipe(learning_rate=2e-4, batch=8, at_once=4, checkpointing=True),
}


def qlora_estimate(model: Any, recipe: Recipe, optimiser: str = "adamw") -> formulas.Estimate:
    """The peak memory of training `model` (a name or a folder) by `recipe`, by the formulas."""
    sizes = (recipe.max_length, recipe.at_once, recipe.rank)
    return formulas.estimate(model, "qlora", *sizes, checkpointing=recipe.checkpointing, optimiser=optimiser)


def trainer_step(model: Any, recipe: Recipe, cuda: bool = False, dtype: str = "bfloat16") -> Step:
    """What the trainer does in one step by `recipe`, on a GPU or a CPU, as something to simulate."""
    return Step(
        shapes.architecture(model),
        "qlora",
        recipe.max_length,
        recipe.at_once,
        recipe.rank,
        recipe.checkpointing,
        _optimiser(cuda),
        dtype,
        fused_head=cuda and compat.has_fused_head(),
        accumulate=recipe.batch > recipe.at_once,
        padded=recipe.at_once > 1,
    )


def _optimiser(cuda: bool) -> str:
    """As `memory.formulas` calls it: with 8-bit state on a GPU, where it is paged, too."""
    return "adamw-8bit" if cuda else "adamw"


def needed_gb(model: Any, recipe: Recipe, available_gb: float, loaded: bool = False, cuda: bool = False) -> float:
    """GiB that training by `recipe` needs; with `loaded`, beyond the weights, which are in memory already.

    By the formulas where they leave no doubt. Near the limit the trainer's own step is simulated (seconds).
    """
    there = formulas.weight_bytes(shapes.architecture(model), "nf4") / shapes.GIB if loaded else 0
    needed = qlora_estimate(model, recipe, _optimiser(cuda)).total - there
    if not 0.75 * available_gb < needed < 2 * available_gb:
        return needed
    return simulate.quick_total(trainer_step(model, recipe, cuda)) - there


def fitting(recipe: Recipe, model: Any, available_gb: float, loaded: bool = False, cuda: bool = False) -> Recipe:
    """`recipe`, or the nearest to it that fits into `available_gb` (GiB).

    Fewer conversations at once and checkpointing change memory and time, but not the result. With `loaded`
    the weights are in memory already. NotEnoughMemoryError if nothing helps.
    """
    for at_once in [n for n in divisors(recipe.batch) if n <= recipe.at_once]:
        for checkpointing in dict.fromkeys((recipe.checkpointing, True)):
            smaller = dataclasses.replace(recipe, at_once=at_once, checkpointing=checkpointing)
            needed = needed_gb(model, smaller, available_gb, loaded, cuda)
            if needed <= available_gb:
                return smaller
    raise NotEnoughMemoryError(
        f"Even one conversation at a time needs {needed:.1f} GiB and {available_gb:.1f} are free. "
        "Close other programs or notebooks, or use a smaller model: COURSE_TIER=bundled always fits."
    )


def adapted(recipe: Recipe, chat: Chat, hardware: Hardware) -> Recipe:
    """`fitting` for a loaded model on this machine. Says what it changed."""
    cuda = training_device(hardware) == "cuda"
    fits = fitting(recipe, chat.model.config.name_or_path, hardware.free_gb, loaded=True, cuda=cuda)
    if fits != recipe:
        print(
            f"Only {hardware.free_gb:.1f} GiB are free. Conversations at once: {fits.at_once} instead of "
            f"{recipe.at_once}; checkpointing: {'on' if fits.checkpointing else 'off'}. Slower, same result."
        )
    return fits


def precision(hardware: Hardware) -> dict[str, bool]:
    """Mixed precision for the trainer: bf16 where there are units for it, fp16 on older NVIDIA cards."""
    dtype = training_dtype(hardware)
    return {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}
