"""Which model fills a role on this machine, and why."""

import os
from dataclasses import dataclass

from course_utils.models import catalogue, offline
from course_utils.models.catalogue import TIERS, Model
from course_utils.models.hardware import Hardware

PATIENT_CPU_GB = 20  # RAM with which a CPU may run the full tier, if asked to


@dataclass(frozen=True)
class Choice:
    """The model chosen for a role. `reason` is one line for people."""

    role: str
    tier: str
    model: Model
    reason: str


def wanted_tier(tier: str | None = None) -> str | None:
    """The tier that the argument or COURSE_TIER asks for; None to choose by the machine."""
    wanted = tier or os.environ.get("COURSE_TIER", "").strip().lower() or None
    if wanted not in (None, "auto", *TIERS):
        raise ValueError(f"There is no tier {wanted!r}. Use one of {', '.join(TIERS)}, or leave it out.")
    return None if wanted == "auto" else wanted


def choose(role: str, hardware: Hardware, tier: str | None = None) -> Choice:
    """The best model for `role` that this machine can get and hold.

    `tier` or COURSE_TIER asks for a tier, and `catalogue.variable(role)` for a model by name; where both are given the
    tier decides. What is asked for is given unless it cannot work here.
    """
    named = catalogue.asked_for(role)
    wanted, existing = wanted_tier(tier) or (named.tier if named else None), catalogue.tiers_of(role)
    allowed = existing[: existing.index(wanted) + 1] if wanted in existing else existing
    if wanted == "bundled" and "bundled" in existing:
        return Choice(role, "bundled", catalogue.find(role, "bundled"), "asked for")
    obstacles = []
    for name in reversed(allowed):
        model = named if named and named.tier == name else catalogue.find(role, name)
        problem = obstacle(model, hardware, asked=wanted == name)
        if problem is None:
            return Choice(role, name, model, _reason(model, hardware, wanted, obstacles))
        obstacles.append(f"not {name}: {problem}")
    raise ValueError(f"No model for {role!r} can run here: {'; '.join(obstacles)}.")


def obstacle(model: Model, hardware: Hardware, asked: bool = False) -> str | None:
    """Why `model` cannot be used on this machine; None if it can. Asking for it skips matters of taste."""
    if model.tier == "bundled":
        return None
    if not model.cached_folder and hardware.network is False:  # None: nobody asked, so a try is worth it
        return _out_of_reach(model)
    if model.quantise and hardware.device == "mps":
        return "its 4-bit weights need an NVIDIA GPU or a CPU"
    if asked and hardware.device != "cuda":
        needed = PATIENT_CPU_GB if model.tier == "full" else model.memory_gb
        short = hardware.ram_total_gb < needed
        return f"it needs {needed:g} GiB RAM, this machine has {hardware.ram_total_gb:.0f}" if short else None
    if model.tier == "full" and hardware.device != "cuda":
        return "no NVIDIA GPU"
    if hardware.free_gb < model.memory_gb:
        return f"it needs {model.memory_gb:g} GiB, {hardware.free_gb:.1f} are free"
    return None


def _out_of_reach(model: Model) -> str:
    """Why a model cannot be had without a network, and what in the cache to delete."""
    problem = None if offline.is_offline() else offline.endpoint_problem()
    if problem:
        return f"{problem}; unset it or correct it"
    if model.cut_files:
        names = ", ".join(str(path) for path in model.cut_files)
        return f"no network, and the cache holds damaged files, to be deleted: {names}"
    return "no network, and it is not in the cache"


def _reason(model: Model, hardware: Hardware, wanted: str | None, obstacles: list[str]) -> str:
    if obstacles:
        return obstacles[-1]
    if wanted == model.tier:
        return "asked for"
    if wanted:
        return f"there is no {wanted} model for this role"
    return f"{hardware.free_gb:.0f} GiB free{', already downloaded' if model.cached_folder else ''}"
