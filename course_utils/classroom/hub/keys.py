"""A key of the shared model server for each student: one file to hand out, one of hashes for the server."""

import csv
import io
import json
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from course_utils.classroom.outputs import write
from course_utils.serving.clients import hashed

PLAIN, HASHED = "keys.csv", "keys.json"
HEAD = ["student", "key"]
OWN = 0o600  # only its owner may read and write a file
NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")  # what hubs allow, and no spreadsheet takes for a formula
ALLOWED = "Use small letters, digits and . _ @ -."
KEY_BYTES = 24
BEGIN = "course-"  # so that no spreadsheet takes a key for a number or a formula


def read_names(path: Path) -> list[str]:
    """A class list: a name in each line, as students sign in to the hub. ValueError names the line that is none."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a list of names in UTF-8 ({type(error).__name__}).") from None
    names: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip().lower()  # the hub, too, writes names in small letters
        if not name or name.startswith("#"):
            continue
        place = f"{path}, line {number}"
        if not NAME.fullmatch(name):
            raise ValueError(f"{place}: {name[:80]!r} is no name of a hub's user. {ALLOWED}")
        if name in names:
            raise ValueError(f"{place}: {name!r} is there twice.")
        names.append(name)
    if not names:
        raise ValueError(f"{path} holds no names: write one in each line.")
    return names


def read_plain(path: Path) -> dict[str, str]:
    """The key of each student. ValueError if the file is not one that `make_keys` wrote."""
    lines = io.StringIO(path.read_text("utf-8"))
    head, *rows = [*csv.reader(lines)] or [[]]
    if head != HEAD or any(len(row) != len(HEAD) for row in rows):
        raise ValueError(f"{path} is no list of keys: it begins with the line student,key.")
    return dict(rows)


def make_keys(names: Sequence[str], folder: Path) -> tuple[int, int]:
    """Write the keys of a class into `folder`; how many are new, and how many were taken back.

    A student who has a key keeps it; one who is no longer on the list loses it. keys.csv holds the keys, for the hub
    and to hand out: only its owner may read it. keys.json holds their hashes, for the model server.
    """
    plain = folder / PLAIN
    before = read_plain(plain) if plain.exists() else {}
    fresh = {name: BEGIN + secrets.token_urlsafe(KEY_BYTES) for name in names}
    keys = {name: before.get(name, key) for name, key in fresh.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows(keys.items())
    write(plain, text.getvalue().encode(), OWN)
    hashes = {name: hashed(key.encode()) for name, key in keys.items()}
    write(folder / HASHED, json.dumps(hashes, indent=1).encode(), OWN)
    made = keys.keys() - before.keys()
    gone = before.keys() - keys.keys()
    return len(made), len(gone)
