"""Linux's Landlock: a process gives up files, TCP and signals for good. Needs no rights; Linux 5.13, all of it 6.12.

The kernel's interface is three system calls without wrappers in any libc (man landlock(7)), hence ctypes.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
ASK_VERSION = 1
PATH_BENEATH = 1
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # by version: how many rights there are; later ones have 16
TCP = 0b11  # bind, connect; from version 4
WHOLE = 3  # the first version that keeps a file from being emptied by who may read it
SCOPES = 0b11  # abstract Unix sockets, signals; from version 6
NO_NEW_PRIVILEGES = 38  # of prctl; without it only root may restrict itself


def version() -> int:
    """The kernel's version of Landlock; 0 without it."""
    if sys.platform != "linux":
        return 0
    return max(0, _call(CREATE_RULESET, None, 0, ASK_VERSION))


def rules(readable: Iterable[Path], listed: Iterable[Path]) -> int:
    """A set of rules, as a file descriptor: reading in `readable`, names in `listed`, /dev/null, and nothing else."""
    known = version()
    files = (1 << FILE_RIGHTS.get(known, 16)) - 1
    handled = [files, TCP if known >= 4 else 0, SCOPES if known >= 6 else 0]
    while handled[-1] == 0:  # older versions take fewer numbers
        handled.pop()
    attributes = struct.pack(f"={len(handled)}Q", *handled)
    ruleset = _checked(_call(CREATE_RULESET, attributes, len(attributes), 0))
    for path in readable:
        _allow(ruleset, path, READ_FILE | READ_DIR)
    for path in listed:
        _allow(ruleset, path, READ_DIR)
    _allow(ruleset, Path(os.devnull), READ_FILE | WRITE_FILE)
    return ruleset


def restrict(ruleset: int) -> None:
    """From here on this thread and those that it starts live by the rules."""
    ctypes.CDLL(None).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _checked(_call(RESTRICT_SELF, ruleset, 0))


def without(root: Path, closed: set[Path]) -> Iterator[Path]:
    """`root`, or in its place the parts of it that hold nothing of `closed`."""
    if is_closed(root, closed):
        return
    if not root.is_dir() or not any(path.is_relative_to(root) for path in closed):
        yield root
        return
    for part in sorted(root.iterdir()):
        yield from without(part, closed)


def is_closed(path: Path, closed: set[Path]) -> bool:
    """Whether a path is closed, or holds the compiled form of files that are."""
    if path.name == "__pycache__":
        return any(path.parent == file.parent for file in closed)
    return path in closed


def _allow(ruleset: int, path: Path, rights: int) -> None:
    if not path.is_dir():
        rights &= ~READ_DIR
    if rights == 0 or not path.exists():
        return
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _checked(_call(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, place), 0))
    finally:
        os.close(place)


def _call(number: int, *values: bytes | int | None) -> int:
    """A system call; -1 if it fails."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in values]
    return ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *wide)


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return answer
