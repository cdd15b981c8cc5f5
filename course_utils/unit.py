"""One call that opens a unit: looks at the machine, chooses models, prints what will happen."""

import atexit
import os
import random
import shutil
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path

from course_utils import compat, keeping, recordings, settings
from course_utils.models import catalogue, loaders, offline, tiers, transfer
from course_utils.models.hardware import Hardware, detect
from course_utils.models.tiers import Choice

WIDTH = 88  # columns of the preflight card


@dataclass(frozen=True)
class Plan:
    """What a unit needs. `minutes` is how long its notebook runs at each tier, without downloads.

    Measured on two CPU cores at the bundled tier, estimated at the others.
    """

    title: str
    roles: tuple[str, ...]
    minutes: dict[str, int]


UNITS = {
    "7.1": Plan("Multimodal AI", ("image-text", "speech"), {"bundled": 1, "small": 5, "full": 10}),
    "7.2": Plan("Agentic AI", ("chat",), {"bundled": 1, "small": 10, "full": 15}),
    "7.3": Plan("Research directions", ("chat", "image-text"), {"bundled": 1, "small": 5, "full": 10}),
    "7.4": Plan("Self-hosting", ("chat",), {"bundled": 1, "small": 5, "full": 10}),
    "7.5": Plan("Fine-tuning", ("chat",), {"bundled": 1, "small": 15, "full": 30}),
}


def overview() -> list[dict]:
    """One row a unit: the models that it would use on this machine, what they download, how long it runs."""
    hardware, rows = detect(tiers.wanted_tier()), []
    for name, plan in UNITS.items():
        choices = _choose_all(plan.roles, hardware, None)
        models = ", ".join(f"{choice.model.id.split('/')[-1]} ({choice.tier})" for choice in choices.values())
        row = {"unit": name, "title": plan.title, "models on this machine": models}
        rows.append(
            row | {"download (GB)": round(_download_gb(choices), 1), "minutes to run": _plan_minutes(name, choices)}
        )
    return rows


@dataclass
class Unit:
    """What a notebook needs: the machine, the chosen models, a scratch folder, the seed."""

    name: str
    hardware: Hardware
    choices: dict[str, Choice]
    folder: Path  # writable, removed when Python ends
    seed: int = settings.SEED
    tier: str | None = None  # the tier that was asked for, if any
    _loaded: dict[str, loaders.Role] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> str:
        """ "cuda", "mps" or "cpu"."""
        return self.hardware.device

    def lasting(self, name: str) -> Path:
        """A folder for a long training, in `folder`. Where `colab.keep()` was called, its checkpoints outlive it."""
        return keeping.lasting(self.folder / name, f"{self.name}-{name}")

    def load(self, role: str) -> loaders.Role:
        """The model for a role, loaded once. Falls back to a smaller one aloud if it cannot be had."""
        if role not in self.choices:
            self.choices[role] = tiers.choose(role, self.hardware, self.tier)
        if role not in self._loaded:
            wanted = self.choices[role]
            made = self._loaded[role] = loaders.load(wanted, self.hardware)
            if made.tier != wanted.tier:
                model = catalogue.find(role, made.tier)
                self.choices[role] = Choice(role, made.tier, model, f"instead of {wanted.model.id}")
        return self._loaded[role]


def open_unit(name: str, tier: str | None = None) -> Unit:
    """Prepare unit `name` ("7.1" to "7.5"), print its preflight card and return what the notebook needs.

    `tier` ("bundled", "small" or "full") or COURSE_TIER asks for a tier. ValueError for an unknown unit.
    """
    plan = UNITS.get(str(name))
    if plan is None:
        known = ", ".join(f"{unit} ({p.title})" for unit, p in UNITS.items())
        raise ValueError(f"There is no unit {name!r}. Units are {known}.")
    tiers.wanted_tier(tier)  # complain about a misspelt tier before anything slow
    prepare()
    hardware = detect(tiers.wanted_tier(tier))
    if hardware.network is False:
        _hub_offline(True)
    seed_everything()
    loaders.quiet_libraries()
    unit = Unit(str(name), hardware, _choose_all(plan.roles, hardware, tier), _scratch(str(name)), tier=tier)
    recordings.register(unit)
    print(card(unit))
    return unit


def prepare() -> None:
    """What must stand before the libraries are imported: writable caches, offline mode; output in any encoding."""
    settings.print_anywhere()
    settings.use_writable_caches()
    compat.hide_unfit_torchao()
    _hub_offline(False)  # an earlier call may have found no network
    _hub_offline(offline.is_offline())
    if offline.is_on("COURSE_OFFLINE"):
        offline.close_sockets()


_set_by_us = False


def _hub_offline(on: bool) -> None:
    """Tell huggingface_hub and transformers not to try the network, or take back what we told them."""
    global _set_by_us
    if on and not offline.is_on("HF_HUB_OFFLINE"):
        os.environ["HF_HUB_OFFLINE"], _set_by_us = "1", True
    elif not on and _set_by_us:
        os.environ["HF_HUB_OFFLINE"], _set_by_us = "0", False
    if "huggingface_hub.constants" in sys.modules:  # it reads the variable only once, when imported
        sys.modules["huggingface_hub.constants"].HF_HUB_OFFLINE = offline.is_on("HF_HUB_OFFLINE")


def seed_everything(seed: int = settings.SEED) -> None:
    """Seed Python's, NumPy's and PyTorch's random numbers."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _choose_all(roles: tuple[str, ...], hardware: Hardware, tier: str | None) -> dict[str, Choice]:
    """A choice per role; what one model takes is not offered to the next."""
    choices, left = {}, hardware
    for role in roles:
        choices[role] = tiers.choose(role, left, tier)
        taken = choices[role].model.memory_gb
        left = replace(left, gpu_free_gb=left.gpu_free_gb - taken, ram_free_gb=left.ram_free_gb - taken)
    return choices


def _scratch(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"genai-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# ---------------------------------------------------------------- the preflight card


def card(unit: Unit) -> str:
    """The preflight card as plain text, so that it reads well on any background."""
    hardware, choices = unit.hardware, unit.choices
    rows = [("machine", hardware.describe()), ("numbers", f"{hardware.dtype}: {hardware.dtype_reason}")]
    rows.append(("network", _network(hardware)))
    rows += [(role, f"{c.tier}: {c.model.id} ({c.reason})") for role, c in choices.items()]
    rows += [("download", _download(choices)), ("time", _minutes(unit)), ("more", _more(choices))]
    if kept := keeping.advice():
        rows.append(("kept", kept))
    if settings.is_quick():
        rows.append(("pace", "COURSE_PACE=quick: a tenth of each training. What follows shows no result."))
    title = f" Unit {unit.name}  {UNITS[unit.name].title} "
    lines = [f"┌{title:─<{WIDTH - 2}}┐"]
    for label, text in rows:
        for i, line in enumerate(textwrap.wrap(text, WIDTH - 16, break_on_hyphens=False)):
            lines.append(f"│ {label if i == 0 else '':<11} {line:<{WIDTH - 16}} │")
    return "\n".join([*lines, f"└{'':─<{WIDTH - 2}}┘"])


def _network(hardware: Hardware) -> str:
    """What is known of the network, and whether the hub was asked to learn it."""
    if offline.is_on("COURSE_OFFLINE"):
        return "switched off (COURSE_OFFLINE)"
    if hardware.network is None:
        return "not asked: the bundled tier needs none"
    if hardware.network:
        return f"asked {offline.hub_name()}: it answers"
    asked = _set_by_us  # else HF_HUB_OFFLINE was set by the user, and nobody was asked
    silent = f" ({offline.hub_name()} was asked and doesn't answer)" if asked else ""
    return f"none; everything here works without{silent}"


def _download_gb(choices: dict[str, Choice]) -> float:
    return sum(choice.model.to_download_gb for choice in choices.values())


def _download(choices: dict[str, Choice]) -> str:
    models = [c.model for c in choices.values() if c.model.to_download_gb]
    parts = ", ".join(f"{m.id.split('/')[-1]} {m.download_gb:.1f}" for m in models)
    return f"{_download_gb(choices):.1f} GB when first used: {parts}" if parts else "nothing"


def _plan_minutes(name: str, choices: dict[str, Choice]) -> int:
    return UNITS[name].minutes[max((c.tier for c in choices.values()), key=tiers.TIERS.index)]


def _minutes(unit: Unit) -> str:
    minutes = _plan_minutes(unit.name, unit.choices)
    text = "about a minute" if minutes == 1 else f"about {minutes} minutes"
    text += " for a core notebook, up to three times as much for a lab"
    wait = _download_gb(unit.choices) * 1000 / transfer.ORDINARY / 60
    return f"{text}, and {max(1, round(wait))} to download at {transfer.ORDINARY} MB/s" if wait else text


def _more(choices: dict[str, Choice]) -> str:
    if any(c.tier == "bundled" and c.reason == "asked for" for c in choices.values()):
        return 'the bundled tier was asked for; open_unit(..., tier="small") asks for bigger models'
    if all(c.tier != "bundled" for c in choices.values()):
        return 'open_unit(..., tier="bundled") uses the course\'s own small models'
    return 'the bundled models know only the shop Prisma; with a network, tier="small" brings general ones'
