"""The models of the course, read from catalogue.toml: one per role and tier."""

import hashlib
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from course_utils.models.hardware import hub_cache

ROLES = ("image-text", "speech", "translation", "chat", "embedding")
TIERS = ("bundled", "small", "full")  # from the smallest up


@dataclass(frozen=True)
class File:
    """One file of a model: its name, its size in bytes, its SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


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
    files: tuple[File, ...] = ()
    download_gb: float = 0.0
    quantise: str = ""
    gated: bool = False
    alternative: bool = False
    named: tuple[str, ...] = ()
    architecture: str = ""
    training: str = ""

    @property
    def folder(self) -> Path:
        """Where the hub cache keeps this revision. It need not exist."""
        name = "models--" + self.id.replace("/", "--")
        return hub_cache() / name / "snapshots" / self.revision

    @property
    def cached_folder(self) -> Path | None:
        """`folder`, if it holds every file in its full length, else None. What they say is checked at each load."""
        whole = [_size(self.folder / file.name) == file.size for file in self.files]
        return self.folder if whole and all(whole) else None

    @property
    def cut_files(self) -> tuple[Path, ...]:
        """Files in the cache that have another length than they should: cut off, empty, a pointer, an error page."""
        found = [(self.folder / file.name, file.size) for file in self.files]
        return tuple(path for path, size in found if _size(path) not in (None, size))

    @property
    def to_download_gb(self) -> float:
        """What loading it would download now, in 10^9 bytes: nothing if it is bundled or cached."""
        return 0.0 if self.tier == "bundled" or self.cached_folder else self.download_gb


def _size(path: Path) -> int | None:
    """The file's length in bytes; None if there is no such file."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


@cache
def models() -> tuple[Model, ...]:
    """All entries, in the order of the file."""
    text = Path(__file__).with_name("catalogue.toml").read_text("utf-8")
    return tuple(_model(entry) for entry in tomllib.loads(text)["model"])


def _model(entry: dict) -> Model:
    files = tuple(File(name, **row) for name, row in entry.pop("files", {}).items())
    named = tuple(entry.pop("named", ()))
    return Model(**entry, files=files, named=named)


def tiers_of(role: str) -> tuple[str, ...]:
    """The tiers that exist for `role`, smallest first. ValueError for an unknown role."""
    if role not in ROLES:
        raise ValueError(f"There is no role {role!r}. Roles are {', '.join(ROLES)}.")
    existing = {model.tier for model in models() if model.role == role}
    return tuple(tier for tier in TIERS if tier in existing)


def find(role: str, tier: str) -> Model:
    """The default model for `role` at `tier`. ValueError names what exists."""
    existing = tiers_of(role)
    if tier not in existing:
        raise ValueError(f"The role {role!r} has no tier {tier!r}. It has {', '.join(existing)}.")
    return next(m for m in models() if m.role == role and m.tier == tier and not m.alternative)


def variable(role: str) -> str:
    """The environment variable that asks for another model in `role`: COURSE_CHAT, COURSE_IMAGE_TEXT ..."""
    return "COURSE_" + role.upper().replace("-", "_")


def asked_for(role: str) -> Model | None:
    """The model that `variable(role)` names; None if it names none. ValueError for one without a table."""
    wanted = os.environ.get(variable(role), "").strip()
    if not wanted:
        return None
    choice = {model.id: model for model in models() if model.role == role}
    if wanted not in choice:
        raise ValueError(f"{variable(role)} names {wanted!r}. For this role there are {', '.join(choice)}.")
    return choice[wanted]


# ---------------------------------------------------------------- adding a model


def pin(model: str, revision: str, names: list[str]) -> str:
    """The catalogue's lines for files of a hub's model: each is read once over the network and measured.

    For whoever adds a model. DownloadError if the hub does not give a file.
    """
    from course_utils.models import transfer

    with transfer.connected() as client:
        rows = [_row(name, transfer.stream(client, transfer.address(model, revision, name))) for name in names]
    return "\n".join(["[model.files]", *rows])


def _row(name: str, chunks: Iterator[bytes]) -> str:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return f'"{name}" = {{ size = {size}, sha256 = "{digest.hexdigest()}" }}'


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("Usage: python -m course_utils.models.catalogue ID REVISION FILE ...")
    print(pin(sys.argv[1], sys.argv[2], sys.argv[3:]))
