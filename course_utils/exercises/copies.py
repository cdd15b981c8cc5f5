"""Copies of the progress file in the kept folder (keeping.py): two a session, in turn, without locks or renames.

A kill or a lost machine can damage only the copy that is being written; the other holds all but the last change. Other
sessions, perhaps on other machines at the same time, write copies of their own.
"""

import os
import secrets
from pathlib import Path

from course_utils import keeping

_session = secrets.token_hex(4)  # tells this process's copies from all others
_written = 0


def read() -> dict[Path, bytes]:
    """Every session's copies in the kept folder; empty without one, or where it can't be read (said aloud)."""
    found: dict[Path, bytes] = {}

    def look(kept: Path) -> None:
        for path in sorted(kept.glob("progress-*.json")):
            found[path] = path.read_bytes()

    keeping.attempt(look)
    return found


def write(text: str) -> None:
    """Put a whole progress file into the older of this session's two copies; nothing without a kept folder."""
    global _written
    if keeping.attempt(lambda kept: _put(kept, text.encode())):
        _written += 1


def remove(path: Path) -> None:
    """Remove a copy that says nothing which another one doesn't."""
    keeping.attempt(lambda _: path.unlink(missing_ok=True))


def _put(kept: Path, raw: bytes) -> None:
    """OSError if it did not arrive: a full Drive may say so only when one looks again."""
    letter = "ab"[_written % 2]
    path = kept / f"progress-{_session}-{letter}.json"
    with path.open("wb") as stream:
        stream.write(raw)
        stream.flush()
        os.fsync(stream.fileno())
    if path.read_bytes() != raw:
        raise OSError(None, f"{path.name} did not arrive whole")
