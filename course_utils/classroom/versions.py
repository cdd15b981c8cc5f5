"""What is handed out at one time: a folder or zip with a manifest, a plain folder or zip, or a commit of git."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils.classroom.safe_files import BEFORE, OURS

MANIFEST = "course-release.json"
PASSED_OVER = ("__pycache__", ".venv", ".git", ".ipynb_checkpoints", OURS, BEFORE)  # in a folder without a manifest
MACS_OWN = "__MACOSX/"  # macOS puts a folder of notes about the files beside them into its zips
MOST_FILES = 20_000
BIGGEST = 500_000_000  # bytes of all files of a version together


@dataclass(frozen=True)
class Version:
    """The files of one version, by path (with slashes), each with its fingerprint.

    is_whole: a file that is not in it was taken out. In a release it may belong to another unit, so it stays.
    cells: of notebooks whose content can't be read any more, the fingerprint of their cells.
    """

    name: str
    files: dict[str, str]
    fingerprint: Callable[[bytes], str]
    read: Callable[[str], bytes] | None = None
    is_whole: bool = False
    cells: dict[str, str] = field(default_factory=dict)
    executable: frozenset[str] = frozenset()

    def written(self, path: str) -> str:
        """The fingerprint of a notebook's cells; "" where nothing is known of them."""
        if path in self.cells:
            return self.cells[path]
        return written_cells(self.read(path)) if self.read and path in self.files else ""


def written_cells(raw: bytes) -> str:
    """A fingerprint of what people write in a notebook: type and source of each cell. "" if `raw` is no notebook."""
    try:
        cells = json.loads(raw.decode("utf-8-sig"))["cells"]
        written = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
        return sha256(json.dumps(written).encode())
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def sha256(raw: bytes) -> str:
    """The fingerprint of a file in a manifest."""
    return hashlib.sha256(raw).hexdigest()


def git_blob(raw: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()


# ---------------------------------------------------------------- manifests


def manifest_of(name: str, files: dict[str, bytes], more: dict[str, Any] | None = None) -> dict[str, Any]:
    """The manifest of a version: for each file its SHA-256, for each notebook also that of its cells."""
    listed = {}
    for path, raw in sorted(files.items()):
        entry = {"sha256": sha256(raw)}
        if path.endswith(".ipynb"):
            entry["cells"] = written_cells(raw)
        listed[path] = entry
    return {"course": name, **(more or {}), "files": listed}


def text_of(manifest: dict[str, Any]) -> bytes:
    """A manifest as it stands in its file."""
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def read_manifest(raw: bytes) -> dict[str, Any]:
    """A manifest from its file; ValueError if it is none."""
    try:
        manifest = json.loads(raw.decode("utf-8-sig"))
        for path, entry in manifest["files"].items():
            if safe_path(path).lower() == MANIFEST:
                raise ValueError("it lists itself")
            if not isinstance(entry["sha256"], str) or not isinstance(entry.get("cells", ""), str):
                raise ValueError("a checksum is no text")
        if not isinstance(manifest["course"], str):
            raise ValueError("its version is no text")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is damaged; ask for a new copy of what was handed out") from error
    return manifest


def from_manifest(manifest: dict[str, Any], read: Callable[[str], bytes] | None = None) -> Version:
    """The version that a manifest lists."""
    files = {path: entry["sha256"] for path, entry in manifest["files"].items()}
    cells = {path: entry["cells"] for path, entry in manifest["files"].items() if entry.get("cells")}
    return Version(manifest["course"], files, sha256, read, cells=cells)


def safe_path(path: str) -> str:
    """`path` if it names a file below the folder on every system, and none of ours or git's; else ValueError."""
    parts = path.split("/")
    ours = (".git", OURS, BEFORE)
    strange = any(part in ("", ".", "..") or part != part.rstrip(" .") for part in parts)
    odd_letters = not path.isprintable() or any(letter in path for letter in '\\:*?"<>|')
    if strange or odd_letters or parts[0].lower() in ours:
        raise ValueError(f"{path!r} is not a path that can be handed out")
    return path


# ---------------------------------------------------------------- folders and zips


def handed_out(folder: Path) -> Version | None:
    """What a student's folder says was handed out; None if nothing is known."""
    try:
        raw = (folder / MANIFEST).read_bytes()
    except OSError:
        return None
    try:
        return from_manifest(read_manifest(raw))
    except ValueError:
        return None


def open_source(source: Path) -> Version:
    """The version in a folder or a zip; ValueError if there is none."""
    if source.is_dir():
        return _folder(source)
    if not source.is_file():
        raise ValueError(f"{source} is neither a folder nor a zip file")
    if not zipfile.is_zipfile(source):
        raise ValueError(f"{source.name} is no zip file; give a zip or a folder with the new version")
    return _zip(source)


def _folder(source: Path) -> Version:
    def read(path: str) -> bytes:
        return (source / path).read_bytes()

    if (source / MANIFEST).is_file():
        return _checked(read_manifest((source / MANIFEST).read_bytes()), read)
    if (source / ".git").exists():
        raise ValueError(f"{source} is a clone; make a release of it (`course release`), or a zip")
    paths = []
    for place, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in PASSED_OVER]
        found = [Path(place) / name for name in names]
        paths += [path.relative_to(source).as_posix() for path in found if path.is_file()]
    return _plain(source.name, paths, read)


def _zip(source: Path) -> Version:
    """A zip's content, without a folder that holds all of it, as archives of git hosts have."""
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{source.name} is damaged; get it again") from error
    listed = [entry for entry in archive.infolist() if not entry.is_dir()]
    entries = {entry.filename: entry for entry in listed if not entry.filename.startswith(MACS_OWN)}
    size = sum(entry.file_size for entry in entries.values())
    if len(entries) > MOST_FILES or size > BIGGEST:
        raise ValueError(f"{source.name} holds {len(entries):,} files of {size:,} bytes, too much for a course")
    top = _common_folder(list(entries))

    def read(path: str) -> bytes:
        try:
            with archive.open(entries[top + path]) as stream:  # no more than the entry says, and checks its sum
                return stream.read()
        except (OSError, LookupError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is missing or damaged in {source.name}; get it again") from error

    if top + MANIFEST in entries:
        return _checked(read_manifest(read(MANIFEST)), read)
    return _plain(source.stem, [name.removeprefix(top) for name in entries], read)


def _common_folder(names: list[str]) -> str:
    """ "course-main/" if all names begin so, else ""."""
    first = {name.partition("/")[0] for name in names}
    in_folders = all("/" in name for name in names)
    return f"{first.pop()}/" if len(first) == 1 and in_folders else ""


def _checked(manifest: dict[str, Any], read: Callable[[str], bytes]) -> Version:
    """A version that gives a file only if it is what the manifest says; ValueError for a damaged one."""

    def read_checked(path: str) -> bytes:
        try:
            raw = read(path)
        except OSError as error:
            raise ValueError(f"{path} is missing in the new version; get it again") from error
        if sha256(raw) != manifest["files"][path]["sha256"]:
            raise ValueError(f"{path} is damaged in the new version; get it again")
        return raw

    return from_manifest(manifest, read_checked)


def _plain(name: str, paths: list[str], read: Callable[[str], bytes]) -> Version:
    """A version without a manifest: every file is looked at."""
    if len(paths) > MOST_FILES:
        raise ValueError(f"{name} holds {len(paths):,} files, too many for a course")
    files = {path: read(path) for path in map(safe_path, paths) if path != MANIFEST}
    if "course_utils/__init__.py" not in files and not any(path.endswith(".ipynb") for path in files):
        raise ValueError(f"{name} holds neither the course nor a notebook")
    return _checked(manifest_of(name, files), read)


# ---------------------------------------------------------------- git


ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # would lead git to another clone


class Clone:
    """A clone of git, as far as an update asks for it. ValueError with git's last words if something fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        top, gits_own = self.ask("rev-parse", "--show-toplevel", "--absolute-git-dir").splitlines()
        if Path(top).resolve() != folder:
            raise ValueError(f"{folder} is not the top folder of its clone; go there")
        self.gits_own = Path(gits_own)

    def ask(self, *words: str, index: Path | None = None) -> str:
        """What `git words` prints, without the last line break."""
        return self.ask_bytes(*words, index=index).decode("utf-8", "surrogateescape").strip("\n")

    def ask_bytes(self, *words: str, index: Path | None = None) -> bytes:
        surroundings = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
        surroundings |= {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        for person in ("AUTHOR", "COMMITTER"):
            surroundings |= {f"GIT_{person}_NAME": "course update", f"GIT_{person}_EMAIL": "course@localhost"}
        if index:
            surroundings["GIT_INDEX_FILE"] = str(index)
        command = ["git", "-C", str(self.folder), "-c", "gc.auto=0", "-c", "maintenance.auto=false", *words]
        try:
            done = subprocess.run(command, capture_output=True, env=surroundings, stdin=subprocess.DEVNULL)
        except FileNotFoundError as error:
            raise ValueError("git is not installed, and this folder is a clone; install git") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            raise ValueError(f"git {words[0]} failed: {said[-1]}")
        return done.stdout

    def knows(self, *words: str) -> str:
        """What git prints, "" if it fails: for questions whose answer may be no."""
        try:
            return self.ask(*words)
        except ValueError:
            return ""

    def commit(self, name: str) -> str:
        """The commit that `name` stands for; "" if there is none."""
        return self.knows("rev-parse", "-q", "--verify", f"{name}^{{commit}}")

    def version(self, commit: str) -> Version:
        """All ordinary files of a commit."""
        files, executable = {}, set()
        listing = self.ask("ls-tree", "-r", "-z", "--full-tree", commit)
        for line in filter(None, listing.split("\0")):
            about, _, path = line.partition("\t")
            mode, _, blob = about.split()
            if mode == "100755":
                executable.add(path)
            if mode in ("100644", "100755"):  # no links, which could lead out of the folder, and no other clones
                files[safe_path(path)] = blob

        def read(path: str) -> bytes:
            return self.ask_bytes("cat-file", "blob", files[path])

        day = self.ask("show", "-s", "--format=%cs", commit)
        return Version(day, files, git_blob, read, is_whole=True, executable=frozenset(executable))
