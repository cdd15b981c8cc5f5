"""Whether the files of a model can be what their names say, before a library tries to read them."""

import json
from pathlib import Path

POINTER = b"version https://git-lfs"  # what Git keeps in the place of a large file


class UnreadableError(ValueError):
    """A file is not what its name says. `path` is the file; the text says what it is instead."""

    def __init__(self, path: Path, what: str):
        super().__init__(f"{path} {what}")
        self.path = path


def examine(folder: Path) -> None:
    """UnreadableError for the first weights or JSON file in `folder` that is cut off, empty or something else."""
    for path in sorted(folder.glob("*.json")):
        _json(path)
    for path in sorted(folder.glob("*.safetensors")):
        _weights(path)


def _json(path: Path) -> None:
    content = path.read_bytes()
    _known(path, content)
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(path, f"is no JSON ({first_line(error)})") from error
    if not parsed:
        raise UnreadableError(path, "is JSON without any settings")


def _weights(path: Path) -> None:
    from safetensors import safe_open

    with path.open("rb") as file:
        _known(path, file.read(100))
    try:
        with safe_open(path, "pt") as weights:
            names = list(weights.keys())
    except Exception as error:  # the library's own kind of error, and OSError
        raise UnreadableError(path, f"is cut off or damaged ({first_line(error)})") from error
    if not names:
        raise UnreadableError(path, "holds no weights")


def _known(path: Path, content: bytes) -> None:
    """What often stands in the place of a file."""
    if not content:
        raise UnreadableError(path, "is empty")
    if content.startswith(POINTER):
        raise UnreadableError(path, "is a pointer of Git LFS, not the file itself")
    if content.lstrip().startswith(b"<"):
        raise UnreadableError(path, "is a web page, not the file itself")


def first_line(error: BaseException) -> str:
    """A message in one line of at most 200 characters, without control characters."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return "".join(letter for letter in first if letter.isprintable())[:200]
