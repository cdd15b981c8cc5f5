"""The files that a command writes for an instructor: their names, their templates, and how they are saved."""

import io
import os
import re
import secrets
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from course_utils.classroom.texts import UNKNOWN, as_html, plain, visible

UNNAMED = re.compile(rf'[<>:"/\\|?*\s{UNKNOWN}]+')  # what some system admits in no file's name, and spaces
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows keeps these names for itself
SAME_DAY = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can name
LONGEST = 60  # characters of a file's name; a system counts bytes, up to 255


def write(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file in one step, with its folder where that is missing: a kill leaves the old file or the new one.

    `mode` says who may read and write it, from its first moment on. OSError if it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".new-{secrets.token_hex(4)}")
    try:
        with open(draft, "xb", opener=partial(os.open, mode=mode)) as stream:
            stream.write(content)
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def save(path: Path, content: bytes) -> Path:
    """Write a file as `write` does. ValueError, with what to do, if it can't be written."""
    try:
        write(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "Close it if it is open in another program, or name another folder."
        raise ValueError(f"{path} can't be written ({reason}). {advice}") from error
    return path


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    """A zip file; the same files give the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, SAME_DAY)
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def file_names(names: Iterable[str]) -> list[str]:
    """A file's name for each of `names`, in order: all different, also where case doesn't count, and valid anywhere."""
    taken: set[str] = set()
    chosen = []
    for name in names:
        base = _file_name(name)
        candidate, number = base, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{base}_{number}"
        taken.add(candidate.casefold())
        chosen.append(candidate)
    return chosen


def _file_name(name: str) -> str:
    composed = unicodedata.normalize("NFC", plain(name))
    text = UNNAMED.sub("_", composed)
    short = text[:LONGEST].strip("._") or "student"  # a dot at the end is lost on Windows, one in front hides a file
    return f"_{short}" if DEVICES.fullmatch(short) else short


@cache
def template(name: str) -> Any:
    """A page or an XML file of the folder `templates`, to be filled in with `render`. Whatever goes in is escaped.

    The filters `plain` and `visible` are those of texts.py. `text | marked` is its `as_html`, which escapes already: a
    page adds `| safe`, and XML that holds HTML as text doesn't.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("course_utils.classroom", "templates")
    templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    templates.trim_blocks = templates.lstrip_blocks = True  # a line that holds a statement leaves no blank line
    templates.keep_trailing_newline = True
    templates.filters |= {"plain": plain, "visible": visible, "marked": as_html}
    return templates.get_template(name)
