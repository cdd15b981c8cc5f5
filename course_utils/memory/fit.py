"""Does it fit? An estimate against a card or this machine, and what would make it smaller."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_utils.memory.formulas import INFERENCE, TRAINING, Estimate
from course_utils.memory.shapes import LARGEST, Gpu, parameter_count, tables

if TYPE_CHECKING:
    from course_utils.models.hardware import Hardware

MAKES = {"tesla", "rtx"}  # words that a driver may leave out of a card's name
VARIANTS = {"ti", "super", "laptop", "mobile", "max", "d"}  # other cards in spite of the same number


@dataclass(frozen=True)
class Verdict:
    """Whether an estimate fits, in GiB, and what to change if not. Prints as a sentence or a short list."""

    fits: bool
    needed: float
    available: float
    place: str
    advice: tuple[str, ...] = ()

    @property
    def tight(self) -> bool:
        """Fits with less than a tenth to spare, which is about how far off the estimate may be."""
        return self.fits and self.needed > 0.9 * self.available

    def __str__(self) -> str:
        relation = "fits" if self.fits else "does not fit"
        if self.tight:
            relation = "fits, but only just"
        first = f"{relation}: needs {self.needed:.1f} GiB, {self.place} has {self.available:.1f} GiB"
        return "\n".join([first, *(f"  - {line}" for line in self.advice)])


def gpu(name: str) -> Gpu:
    """The card with this short name, such as t4. Raises ValueError, naming the known ones, for others."""
    known = tables()[1]
    plain = "".join(c for c in name.lower() if c.isalnum() or c == "-")
    for short, card in known.items():
        if plain in (short, short.removeprefix("rtx"), short.replace("-", "")):
            return card
    raise ValueError(f"No card {name!r}. Known: {', '.join(known)}.")


def fits(needed: Estimate, place: "str | float | Gpu | Hardware") -> Verdict:
    """Compare with a card's short name, a number of GiB, or the detected `Hardware` (its free memory).

    If it does not fit, the verdict carries changes that would make it fit, each one estimated.
    """
    name, available = available_in(place)
    if needed.total <= available:
        return Verdict(True, needed.total, available, name)
    return Verdict(False, needed.total, available, name, tuple(_changes(needed, available)))


def available_in(place: "str | float | Gpu | Hardware") -> tuple[str, float]:
    """A place's name, and the GiB that it has: a card's short name, a number of GiB, or a machine (what is free)."""
    if isinstance(place, str):
        place = gpu(place)
    if isinstance(place, Gpu):
        return place.name, place.usable
    if isinstance(place, int | float):
        if isinstance(place, bool) or not 0 <= place < LARGEST:
            raise ValueError(f"The memory given must be a number of GiB, not {place!r:.40}.")
        return "the memory given", float(place)
    return place.gpu or "this machine", place.free_gb


def _changes(needed: Estimate, available: float) -> list[str]:
    """What would make it fit: one change, or else several together or a smaller model; a larger card."""
    changed = [(text, settings, needed.change(**settings)) for text, settings in options(needed)]
    advice = [f"{text}: {e.total:.1f} GiB" for text, _, e in changed if e.total <= available]
    if not advice:
        advice = _together(needed, available, [(t, s) for t, s, e in changed if e.total < needed.total])
        advice += _smaller(needed, available)
    return [*advice, larger_card(needed.total)]


def larger_card(needed: float) -> str:
    """The smallest card that has `needed` GiB, in words."""
    larger = sorted((c for c in tables()[1].values() if c.usable >= needed), key=lambda c: c.usable)
    return f"a larger card: {larger[0].name} ({larger[0].usable} GiB)" if larger else "several cards"


def card_of(place: "str | Gpu | Hardware") -> Gpu | None:
    """The card in our list that a place is or has. None for a processor, and for a card that is not in the list."""
    if isinstance(place, str):
        return gpu(place)
    if isinstance(place, Gpu):
        return place
    if place.device != "cuda":
        return None
    detected = _words(place.gpu or "")
    fitting = [card for card in tables()[1].values() if _same_model(_words(card.name), detected)]
    return min(fitting, key=lambda card: abs(card.usable - place.gpu_total_gb), default=None)


def _same_model(listed: set[str], detected: set[str]) -> bool:
    """Whether a card's name in our list and the driver's name mean the same model."""
    same_variant = listed & VARIANTS == detected & VARIANTS
    return same_variant and listed - MAKES <= detected


def _words(name: str) -> set[str]:
    """The words in a card's name without its size: "NVIDIA A100-SXM4-40GB" has a100 in it."""
    without_size = re.sub(r"\d+ ?gb", "", name.lower())
    return set(re.findall(r"[a-z0-9]+", without_size))


def _together(needed: Estimate, available: float, options: list[tuple[str, dict]]) -> list[str]:
    """As many of the changes, in their order, as it takes; nothing if all of them are not enough."""
    said = []
    for text, settings in options:
        needed, said = needed.change(**settings), [*said, text]
        if needed.total <= available:
            return [f"{', '.join(said)}: {needed.total:.1f} GiB together"]
    return []


def _smaller(needed: Estimate, available: float) -> list[str]:
    """The largest model that fits with the same settings."""
    known = {name: needed.change(model=name).total for name in tables()[0]}
    best = max((n for n, total in known.items() if total <= available), key=parameter_count, default=None)
    return [f"a smaller model, such as {best}: {known[best]:.1f} GiB"] if best else []


def options(needed: Estimate) -> list[tuple[str, dict]]:
    """What can be changed to need less: each in words, and as arguments of `Estimate.change`."""
    training = needed.method in TRAINING
    found = [("gradient checkpointing on", {"checkpointing": True})] if training else []
    found += [("the 8-bit optimiser", {"optimiser": "adamw-8bit"})] if training else []
    found += [("batch 1", {"batch": 1})]
    found += [(f"sequences of {s} tokens", {"seq": s}) for s in (2048, 1024, 512, 256) if s < needed.seq]
    smaller = {"full": ("lora", "qlora"), "lora": ("qlora",), "inference-fp32": INFERENCE[1:]}
    smaller |= {"inference-fp16": INFERENCE[2:], "inference-int8": INFERENCE[3:]}
    return found + [(f"{m} instead of {needed.method}", {"method": m}) for m in smaller.get(needed.method, ())]
