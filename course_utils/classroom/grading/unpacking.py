"""The files below a folder, those in zip files included. Nothing is unpacked to the disk, and nothing is trusted.

Links are not followed, and no more is read than a notebook needs; what is left out is said in a sentence.
"""

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from course_utils.classroom.safe_files import BEFORE

LARGEST_FILE = 50_000_000  # bytes of a notebook, with its outputs
LARGEST_ZIP = 4_000_000_000  # bytes of the work of a class, packed
LARGEST_INNER_ZIP = 100_000_000  # bytes of a zip file in another one
MOST_ENTRIES = 20_000  # files in a zip file
DEEPEST = 20  # folders inside folders
DEEPEST_ZIP = 2  # zip files inside zip files
LONGEST_NAME = 200  # characters of a file's name
IGNORED = (BEFORE, "__MACOSX", "__pycache__", "node_modules", "site-packages", "Thumbs.db", "desktop.ini")
BROKEN = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, zlib.error)
IN_UTF_8 = 0x800  # the flag of an entry whose name is
ENTRY = b"PK\x01\x02"  # what each entry of a zip file's table begins with


class Refused(Exception):
    """A file that is not read: why, to go on after its name."""


@dataclass(frozen=True)
class File:
    """A file: where it is below the folder, when it was changed (seconds), and how it is read.

    `read` gives the bytes, or raises Refused.
    """

    place: tuple[str, ...]
    changed: float
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        return self.place[-1]


def files(source: Path) -> Iterator[File]:
    """All files of a folder or a zip file; each has to be read before the next is taken.

    The entries of a zip file stand below its name without ".zip". If it can't be opened, it is a file of its own.
    ValueError for a folder that can't be opened: a whole student would be missing.
    """
    if source.is_file():
        try:
            stream = source.open("rb")
        except OSError as error:
            raise _closed(error) from error
        with stream:
            yield from _entries(_on_disk(source, ()), stream, 0)
        return
    for folder, inner, names in os.walk(source, onerror=_refuse_closed):
        above = tuple(map(plain, Path(folder).relative_to(source).parts))
        links = [name for name in inner if os.path.islink(os.path.join(folder, name))]
        inner[:] = sorted(name for name in inner if _counts(name) and len(above) < DEEPEST)
        for name in sorted(filter(_counts, [*names, *links])):
            yield from _with_entries(Path(folder) / name, (*above, plain(name)))


def _refuse_closed(error: OSError) -> None:
    raise _closed(error) from error


def _closed(error: OSError) -> ValueError:
    return ValueError(f"{error.filename} can't be opened ({error.strerror}); make it readable, or take it out")


def _with_entries(path: Path, place: tuple[str, ...]) -> Iterator[File]:
    """A file on the disk, or the files in it if it is a zip file."""
    file = _on_disk(path, place)
    if not _is_zip(file):
        yield file
        return
    try:
        stream = _opened(path)
    except Refused as error:
        yield _unreadable(file, str(error))
        return
    with stream:
        yield from _entries(file, stream, 0)


def plain(name: str) -> str:
    """A name that can be printed and written: no control characters, none that turn a line round, not too long."""
    encodable = name.encode("utf-8", "replace").decode("utf-8")
    return "".join(letter for letter in encodable if letter.isprintable())[:LONGEST_NAME] or "_"


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in IGNORED


def _is_zip(file: File) -> bool:
    return bool(file.place) and file.name.lower().endswith(".zip")


# --- on the disk ------------------------------------------------------------------------------------------


def _on_disk(path: Path, place: tuple[str, ...]) -> File:
    return File(place, path.lstat().st_mtime, lambda: _bytes(path, LARGEST_FILE))


def _bytes(path: Path, most: int) -> bytes:
    with _opened(path) as stream:
        return _limited(stream, most)


def _opened(path: Path) -> BinaryIO:
    """An ordinary file, for reading. A link could lead anywhere, a pipe would never end."""
    kind = path.lstat().st_mode
    if stat.S_ISLNK(kind):
        raise Refused("is a link, which is not followed")
    if not stat.S_ISREG(kind):
        raise Refused("is no ordinary file")
    try:
        return path.open("rb")
    except OSError as error:
        raise Refused(f"can't be read ({error.strerror})") from error


def _limited(stream: BinaryIO, most: int) -> bytes:
    raw = stream.read(most + 1)
    if len(raw) > most:
        raise Refused(f"has more than {most // 1_000_000} MB, and is left out; clear its outputs")
    return raw


# --- in zip files -----------------------------------------------------------------------------------------


def _entries(file: File, stream: BinaryIO, depth: int) -> Iterator[File]:
    """The files in the zip file that `stream` reads."""
    try:
        _refuse_too_large(stream)
        archive = zipfile.ZipFile(stream)
    except Refused as error:
        yield _unreadable(file, str(error))
        return
    except BROKEN:
        yield _unreadable(file, "is no zip file that can be read, or is damaged")
        return
    above = (*file.place[:-1], file.name[: -len(".zip")]) if file.place else ()
    for entry in archive.infolist():
        if not entry.is_dir():
            yield from _entry(archive, entry, above, depth)


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, above: tuple[str, ...], depth: int) -> Iterator[File]:
    """A file in a zip file, or the files in it if it is a zip file, too; nothing if it does not count."""
    parts = entry_name(entry).replace("\\", "/").split("/")
    inside = [part for part in parts if part not in ("", ".", "..")]
    if not inside or not all(map(_counts, inside)):
        return
    place = (*above, *map(plain, inside))
    file = File(place, _when(entry), lambda: _unpacked(archive, entry, LARGEST_FILE))
    if ".." in parts or parts[0] == "" or parts[0][1:] == ":":
        yield _unreadable(file, "has a path that leads out of its zip file")
    elif len(place) > DEEPEST:
        yield _unreadable(file, f"is more than {DEEPEST} folders deep")
    elif not _is_zip(file):
        yield file
    elif depth == DEEPEST_ZIP:
        yield _unreadable(file, "is a zip file too deep inside others")
    else:
        yield from _inner_entries(archive, entry, file, depth + 1)


def entry_name(entry: zipfile.ZipInfo) -> str:
    """An entry's name. macOS writes UTF-8 and doesn't say so, and then it was read in the way of DOS."""
    if entry.flag_bits & IN_UTF_8:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return entry.filename


def _inner_entries(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: File, depth: int) -> Iterator[File]:
    try:
        raw = _unpacked(archive, entry, LARGEST_INNER_ZIP)
    except Refused as error:
        yield _unreadable(file, str(error))
        return
    yield from _entries(file, io.BytesIO(raw), depth)


def _refuse_too_large(stream: BinaryIO) -> None:
    """Raises Refused for a zip file whose table alone would fill the memory."""
    size = stream.seek(0, os.SEEK_END)
    if size > LARGEST_ZIP:
        raise Refused(f"has more than {LARGEST_ZIP // 1_000_000} MB, and is left out")
    stream.seek(0)
    entries = 0
    while piece := stream.read(2**20):
        entries += piece.count(ENTRY)
    if entries > MOST_ENTRIES:
        raise Refused(f"holds more than {MOST_ENTRIES:,} files, and is left out")


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    """An entry's bytes, whatever size it says it has."""
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise Refused("is a link, which is not followed")
    if entry.flag_bits & 1:
        raise Refused("is locked with a password")
    try:
        with archive.open(entry) as stream:
            return _limited(stream, most)
    except BROKEN as error:
        raise Refused("is damaged, and is left out") from error


def _when(entry: zipfile.ZipInfo) -> float:
    try:
        return datetime(*entry.date_time).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _unreadable(file: File, why: str) -> File:
    def refuse() -> bytes:
        raise Refused(why)

    return File(file.place or ("the zip file",), file.changed, refuse)
