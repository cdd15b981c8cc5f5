"""Files put into a student's folder, and set aside there, so that a kill at any moment loses no byte.

A new file is written whole and synced under a name of ours, and gets its real name in one step, which never replaces
anything. What stands in its way was moved aside before, in one step, too.
"""

import contextlib
import os
import secrets
from pathlib import Path

OURS = ".course-update"  # in the student's folder: drafts, the lock, what is under way
BEFORE = "before-update"  # in the student's folder: what was there before an update
DRAFT = "draft-"
BINARY = getattr(os, "O_BINARY", 0)  # Windows would write CR LF for every LF


def remove_drafts(folder: Path) -> None:
    """Remove the drafts that a killed run has left in our own folder in `folder`."""
    for draft in (folder / OURS).glob(f"{DRAFT}*"):
        os.unlink(draft)


def make_folders(folder: Path, wanted: Path) -> None:
    """Make `wanted` and what is missing above it, below `folder`. Ours tell git to pass over them."""
    place = folder
    for part in wanted.relative_to(folder).parts:
        place = place / part
        with contextlib.suppress(FileExistsError):
            os.mkdir(place)
            sync_folder(place.parent)
        if place.parent == folder and part in (OURS, BEFORE):
            _hide_from_git(place)


def _hide_from_git(place: Path) -> None:
    path = place / ".gitignore"
    if not path.exists():
        path.write_text("*\n", encoding="utf-8")


def write(folder: Path, path: str, content: bytes, executable: bool = False) -> None:
    """Put a new file at `path`, which is free. FileExistsError, and nothing is changed, if somebody was quicker."""
    draft = _write_draft(folder, content, 0o777 if executable else 0o666)
    try:
        target = folder / path
        make_folders(folder, target.parent)
        _name(draft, target)
        sync_folder(target.parent)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def replace(folder: Path, path: str, content: bytes) -> None:
    """Write a file of our own, in the place of its older self."""
    draft = _write_draft(folder, content, 0o666)
    os.replace(draft, folder / path)
    sync_folder((folder / path).parent)


def _write_draft(folder: Path, content: bytes, mode: int) -> Path:
    """A file of ours with `content`, which has reached the disk."""
    draft = folder / OURS / f"{DRAFT}{secrets.token_hex(8)}"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, mode)
    try:
        try:
            _write_all(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:  # a full disk: make room again
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    return draft


def _write_all(handle: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _name(draft: Path, target: Path) -> None:
    """Give `draft` its real name; FileExistsError if that is taken."""
    if os.name == "nt":
        os.rename(draft, target)  # refuses to replace, there
        return
    try:
        os.link(draft, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(f"{target} is taken") from None
        os.rename(draft, target)
        return
    os.unlink(draft)


def move(folder: Path, path: str, target: str) -> None:
    """Move a file, a link or a folder to `target`, which is free."""
    source, place = folder / path, folder / target
    make_folders(folder, place.parent)
    if os.path.lexists(place):
        raise FileExistsError(f"{place} is taken")
    os.rename(source, place)
    sync_folder(place.parent)
    sync_folder(source.parent)


def sync_folder(place: Path) -> None:
    """Let the names in a folder reach the disk; Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network folders refuse
        pass
    finally:
        os.close(handle)


def free_name(folder: Path, path: str, tag: str) -> str:
    """`path` with `tag` before its ending, and a number if that is taken: labs/a.ipynb, labs/a.TAG.ipynb."""
    whole = Path(path)
    number = 1
    while True:
        mark = tag if number == 1 else f"{tag}-{number}"
        name = whole.with_name(f"{whole.stem}.{mark}{whole.suffix}").as_posix()
        if not os.path.lexists(folder / name):
            return name
        number += 1
