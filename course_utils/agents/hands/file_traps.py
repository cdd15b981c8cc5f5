"""Forty ways out of a folder, laid out to be tried (Unit 7.2). None of them may work."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from course_utils.agents.hands.file_tool import LARGEST

SECRET = "the key of the shop"


@dataclass(frozen=True)
class Attempt:
    """A path to read or, with `text`, to write."""

    what: str
    path: str
    text: str = ""


@contextmanager
def laid(root: Path, outside: Path) -> Iterator[list[Attempt]]:
    """The attempts, with `outside`/secret.txt as their aim and links, pipes and large files laid below `root`.

    What a system cannot lay (links on Windows) is left out: the path is tried all the same.
    """
    secret = outside / "secret.txt"
    secret.write_text(SECRET, "utf-8")
    (root / "notes.txt").write_text("a note", "utf-8")
    with (root / "huge.txt").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no room
    (root / "large.txt").write_bytes(b"x" * (LARGEST + 1))
    (root / "bytes.bin").write_bytes(b"\xff\xfe\x00")
    with suppress(OSError, NotImplementedError):
        _lay_links(root, secret)
    with _door(root):
        yield attempts(root, secret)


@contextmanager
def _door(root: Path) -> Iterator[None]:
    """A pipe and, while the block lasts, a socket below `root`, on systems that have them."""
    if not hasattr(os, "mkfifo"):
        yield
        return
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as door:
        with suppress(OSError):  # the path of a socket must be short
            door.bind(str(root / "socket"))
        yield


def _lay_links(root: Path, secret: Path) -> None:
    """Links of each kind: to a file, to a folder, to a link, up, to itself, hard."""
    (root / "link.txt").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent, target_is_directory=True)
    (root / "second.txt").symlink_to("link.txt")
    (root / "up").symlink_to("..", target_is_directory=True)
    (root / "round").symlink_to("round")
    (root / "new.txt").symlink_to(secret.parent / "made.txt")
    (root / "device").symlink_to("/dev/zero")
    (root / "hard.txt").hardlink_to(secret)


def attempts(root: Path, secret: Path) -> list[Attempt]:
    """What is tried, in the order of the table."""
    up = os.path.relpath(secret, root).replace(os.sep, "/")
    return [
        Attempt("up", up),
        Attempt("up, behind a folder that is there", f"x/../{up}"),
        Attempt("up, in the middle", f"a/b/../../{up}"),
        Attempt("up, with dots and a space", ".. /" + up.removeprefix("../")),
        Attempt("up, doubled as filters leave it", up.replace("../", "....//")),
        Attempt("up, with backslashes", up.replace("/", "\\")),
        Attempt("up, percent-encoded", up.replace("../", "%2e%2e%2f")),
        Attempt("up, in wide letters", up.replace("..", "\uff0e\uff0e")),
        Attempt("absolute", secret.as_posix()),
        Attempt("absolute, two slashes", "/" + secret.as_posix()),
        Attempt("absolute, as an address", f"file://{secret.as_posix()}"),
        Attempt("a drive", "C:/Windows/win.ini"),
        Attempt("another machine", "\\\\server\\share\\secret.txt"),
        Attempt("the home folder", "~/secret.txt"),
        Attempt("a variable", "$HOME/secret.txt"),
        Attempt("a NUL behind a good name", f"{up}\0notes.txt"),
        Attempt("a line break", "notes.txt\n../secret.txt"),
        Attempt("this process's folder", "/proc/self/cwd/secret.txt"),
        Attempt("a device of Windows", "NUL"),
        Attempt("a device with an ending", "sub/com1.txt"),
        Attempt("a second stream of a file", "notes.txt:secret"),
        Attempt("a link to a file", "link.txt"),
        Attempt("a link to a link", "second.txt"),
        Attempt("below a link to a folder", "folder/secret.txt"),
        Attempt("below a link up", f"up/{secret.parent.name}/secret.txt"),
        Attempt("a link to itself", "round"),
        Attempt("a hard link", "hard.txt"),
        Attempt("a link to an endless device", "device"),
        Attempt("a pipe that nobody writes to", "pipe"),
        Attempt("a socket", "socket"),
        Attempt("a terabyte", "huge.txt"),
        Attempt("one byte too many", "large.txt"),
        Attempt("a folder", "."),
        Attempt("a path of 10,000 letters", "a/" * 5000),
        Attempt("write: up", "../made.txt", SECRET),
        Attempt("write: through a link to nothing", "new.txt", SECRET),
        Attempt("write: over a linked file", "link.txt", "changed"),
        Attempt("write: over a hard link", "hard.txt", "changed"),
        Attempt("write: below a link", "folder/made.txt", SECRET),
        Attempt("write: until the disk is full", "full.txt", "x" * (LARGEST + 1)),
    ]
