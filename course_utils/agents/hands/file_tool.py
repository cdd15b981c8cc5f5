"""Files as an agent's tool, confined to one folder (Unit 7.2).

A path is checked twice. As text: what looks like a way out is refused by name. And while it is opened: each folder is
opened inside the one before, and no link is followed, so that nobody can exchange a folder for a link in between.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path, PurePosixPath

from course_utils.prisma.tools import Result, failed

LONGEST_NAME = 200  # characters of a path
LARGEST = 20_000  # bytes of a file
ROOM = 100_000  # bytes of all files together
DEVICES = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10))}
SAFE = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")  # not on Windows


class Refused(ValueError):
    """A path or a file that the tool does not touch. The message is what the model gets to read."""


def parts_of(name: str) -> tuple[str, ...]:
    """The folders and the file that a relative path names. Refused if it could mean another."""
    if not name or len(name) > LONGEST_NAME:
        raise Refused(f"a path has 1 to {LONGEST_NAME} characters")
    if not name.isprintable():
        raise Refused("a path has no control characters")
    if "\\" in name or ":" in name:
        raise Refused("a path has no backslash and no colon")
    if name.startswith(("/", "~")):
        raise Refused("a path begins with a folder or a file of yours")
    if "%" in name or "$" in name:
        raise Refused("a path has no % and no $")
    parts = PurePosixPath(name).parts
    for part in parts:
        _check_part(part)
    if not parts:
        raise Refused("a path names a file")
    return parts


def _check_part(part: str) -> None:
    if part == "..":
        raise Refused("a path does not go up")
    if part != part.strip(". "):
        raise Refused("a name does not begin or end with a dot or a space")
    if part.lower().split(".")[0] in DEVICES:
        raise Refused(f"{part} is a device")


class Folder:
    """The files below the folder `root`: to be listed, read and written, as a toolbox or by its methods."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).resolve(strict=True)

    def __call__(self, name: str, argument: str) -> Result:
        """`read_file[path]` or `list_files[]`. What is refused comes back as an error to read."""
        if name not in ("read_file", "list_files"):
            return failed(f"no tool {name}")
        try:
            return Result(self.read(argument) if name == "read_file" else "\n".join(self.files()))
        except Refused as error:
            return failed(str(error))

    def files(self) -> list[str]:
        """The paths of all files that may be read. Links are not followed, and not listed."""
        found = []
        for folder, _, names in os.walk(self.root, followlinks=False):
            for name in names:
                path = Path(folder, name)
                if _is_plain(path.lstat()):
                    found.append(path.relative_to(self.root).as_posix())
        return sorted(found)

    def read(self, name: str) -> str:
        """The text of a file. Refused if there is none, or it is too large, or no ordinary file."""
        file = self._open(parts_of(name), os.O_RDONLY)
        with os.fdopen(file, "rb") as stream:
            # One byte more than allowed: the file may have grown since it was looked at.
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise Refused(f"a file has at most {LARGEST} bytes")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused("that is no text") from error

    def write(self, name: str, text: str) -> None:
        """Write a file, and the folders above it. Refused if it would be too large, or the folder too full."""
        data = text.encode("utf-8")
        if len(data) > LARGEST:
            raise Refused(f"a file has at most {LARGEST} bytes")
        if self._used() + len(data) > ROOM:
            raise Refused(f"all files together have at most {ROOM} bytes")
        file = self._open(parts_of(name), os.O_WRONLY | os.O_CREAT, folders=True)
        with os.fdopen(file, "wb") as stream:
            stream.truncate()
            stream.write(data)

    def _used(self) -> int:
        sizes = [(self.root / name).lstat().st_size for name in self.files()]
        return sum(sizes)

    def _open(self, parts: tuple[str, ...], how: int, folders: bool = False) -> int:
        """An open file, which is an ordinary one of this folder. `folders` makes those that are missing."""
        opened = open_inside if SAFE else _open_by_path
        try:
            file = opened(self.root, parts, how, folders)
        except FileNotFoundError:
            raise Refused(f"no file {'/'.join(parts)}") from None
        except OSError as error:
            raise Refused(f"{'/'.join(parts)} is a link, a folder, or below one: {error.strerror}") from None
        about = os.fstat(file)
        if not _is_plain(about) or about.st_size > LARGEST:
            os.close(file)
            raise Refused(_why_not(about))
        return file


def _is_plain(about: os.stat_result) -> bool:
    """Whether a file is an ordinary one with one name: another name may lie outside."""
    return stat.S_ISREG(about.st_mode) and about.st_nlink == 1


def _why_not(about: os.stat_result) -> str:
    if not stat.S_ISREG(about.st_mode):
        return "that is no ordinary file"
    if about.st_nlink != 1:
        return "that file has a second name, perhaps outside"
    return f"a file has at most {LARGEST} bytes"


def open_inside(root: Path, parts: tuple[str, ...], how: int, folders: bool) -> int:
    """Open folder after folder, each inside the last one, and follow no link: OSError for one."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            if folders:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        # O_NONBLOCK: a pipe would wait for somebody to write.
        return os.open(parts[-1], how | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=folder)
    finally:
        os.close(folder)


def _open_by_path(root: Path, parts: tuple[str, ...], how: int, folders: bool) -> int:
    """The same for Windows, which cannot open inside a folder: a link put there between look and opening gets by."""
    path = root.joinpath(*parts)
    for place in (path, *path.parents):
        if place == root:
            break
        # Junctions are links, too: resolve() follows both.
        if place.exists() and place.resolve() != place:
            raise OSError(0, "a link")
    if folders:
        path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, how | getattr(os, "O_BINARY", 0), 0o600)
