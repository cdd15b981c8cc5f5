"""The models that come with the course: where they are, and whether they are intact."""

import hashlib
from pathlib import Path

from course_utils.settings import MODELS

NAMES = ("prisma-clip", "prisma-whisper", "prisma-lm")
SUMS = "SHA256SUMS"  # written as `sha256sum` writes it, so that it can be checked without Python


class BundledModelError(RuntimeError):
    """A model that comes with the course is missing or damaged."""


def folder(name: str) -> Path:
    """The folder of a bundled model. ValueError for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"There is no bundled model {name!r}. Bundled are {', '.join(NAMES)}.")
    return MODELS / name


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums(root: Path = MODELS) -> dict[str, str]:
    """Recorded checksums: path relative to `root` -> SHA-256. Empty if none are recorded."""
    path = root / SUMS
    if not path.is_file():
        return {}
    lines = [line.split(maxsplit=1) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return {name.strip().removeprefix("*"): digest for digest, name in lines}


def verify(model: str | Path) -> Path:
    """The model's folder, after its weights have been compared with the recorded checksums.

    A folder that stands elsewhere (a checkpoint of your own training) has no record and passes as it is.
    BundledModelError says what is wrong and how to cure it.
    """
    place = folder(model) if isinstance(model, str) else Path(model)
    cure = f"Restore it with `git checkout -- data/models/{place.name}`, or clone the course again."
    weights = sorted(place.glob("*.safetensors"))
    if not weights:
        raise BundledModelError(f"{place.name} has no weights in {place}. {cure}")
    if place.parent.resolve() != MODELS.resolve() and not (place.parent / SUMS).is_file():
        return place
    recorded = sums(place.parent)
    for file in weights:
        if recorded.get(f"{place.name}/{file.name}") != sha256(file):
            raise BundledModelError(
                f"{place.name}/{file.name} differs from the recorded checksum: damaged or changed. {cure} "
                "If you trained it yourself, record it with `python -m course_utils.models.bundled`."
            )
    return place


def write_sums(root: Path = MODELS) -> Path:
    """Record the checksums of all weights under `root`; the file's path."""
    files = sorted(root.glob("*/*.safetensors"))
    lines = [f"{sha256(file)}  {file.relative_to(root).as_posix()}\n" for file in files]
    path = root / SUMS
    path.write_text("".join(lines), "utf-8", newline="\n")
    return path


if __name__ == "__main__":
    print(write_sums())
