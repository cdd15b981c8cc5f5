"""The models of the course, read from catalogue.toml: one per role and tier."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from course_utils.hardware import hub_cache

ROLES = ("image-text", "speech", "translation", "chat", "embedding")
TIERS = ("bundled", "small", "full")  # from the smallest up


@dataclass(frozen=True)
class Model:
    """One entry of the catalogue. What the fields mean stands at the top of catalogue.toml."""

    role: str
    tier: str
    id: str
    licence: str
    memory_gb: float
    limits: str
    revision: str = ""
    files: tuple[str, ...] = ()
    download_gb: float = 0.0
    quantise: str = ""
    gated: bool = False
    alternatives: tuple[str, ...] = ()

    @property
    def cached_folder(self) -> Path | None:
        """The folder in the hub cache that holds every file of this revision, or None."""
        name = "models--" + self.id.replace("/", "--")
        folder = hub_cache() / name / "snapshots" / self.revision
        complete = bool(self.files) and all((folder / file).is_file() for file in self.files)
        return folder if complete else None

    @property
    def to_download_gb(self) -> float:
        """What loading it would download now, in 10^9 bytes: nothing if it is bundled or cached."""
        return 0.0 if self.tier == "bundled" or self.cached_folder else self.download_gb


@cache
def models() -> tuple[Model, ...]:
    """All entries, in the order of the file."""
    entries = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text("utf-8"))["model"]
    return tuple(Model(**{k: tuple(v) if isinstance(v, list) else v for k, v in e.items()}) for e in entries)


def tiers_of(role: str) -> tuple[str, ...]:
    """The tiers that exist for `role`, smallest first. ValueError for an unknown role."""
    if role not in ROLES:
        raise ValueError(f"There is no role {role!r}. Roles are {', '.join(ROLES)}.")
    return tuple(tier for tier in TIERS if any(m.role == role and m.tier == tier for m in models()))


def find(role: str, tier: str) -> Model:
    """The model for `role` at `tier`. ValueError names what exists."""
    existing = tiers_of(role)
    if tier not in existing:
        raise ValueError(f"The role {role!r} has no tier {tier!r}. It has {', '.join(existing)}.")
    return next(m for m in models() if m.role == role and m.tier == tier)
