"""`course update`: the newest version comes, and whatever a student wrote stays.

| the student's file | what happens when a new version brings another |
| --- | --- |
| not touched | the new one takes its place |
| a notebook that was only run | the new one takes its place; the old, with its outputs, is in before-update/ |
| a notebook that was edited | stays as it is; the new one is beside it: 7.1_x.new-2027-01-31.ipynb |
| another file that was edited | is in before-update/; the new one takes its place, so that the course fits together |
| deleted | comes back |
| the student's own, of the same name | is renamed: notes.mine-20270131-101500.md |

What was taken out of the course goes if it was not touched; a file that only the student has is not even looked at. No
file is merged, so there is no conflict. nbgitpuller, whose rules for deleted and own files these are, merges lines, and
where both changed a line the new one is lost. A killed update is finished by the next one.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from course_utils.classroom import safe_files, versions
from course_utils.classroom.safe_files import BEFORE, OURS
from course_utils.classroom.versions import MANIFEST, Clone, Version
from course_utils.colab import how_to_add

UNDER_WAY = f"{OURS}/under-way.json"
NEWEST = "refs/course/newest"  # git's name for what was fetched last
BUSY = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply")  # a git command half done
NEEDS = ("pyproject.toml", "constraints.txt")  # where packages are listed


class StoppedError(RuntimeError):
    """The update could not go on. Nothing is lost, and the next one goes on where this one stopped."""


@dataclass(frozen=True)
class Change:
    """What happened to a file; `other` is where the student's, or for "kept" the new one, is found."""

    path: str
    kind: str
    other: str = ""


# What `course update` says, by kind, and whether each file is named.
SAID = {
    "new": ("came", False),
    "renewed": ("replaced, you had not touched them", False),
    "run": ("replaced; yours, which you had only run, is", True),
    "kept": ("is yours and stays; the new one is", True),
    "aside": ("replaced; what you had changed is", True),
    "renamed": ("came; your own file of that name is now", True),
    "gone": ("taken out of the course", False),
    "left": ("no longer part of the course; yours stays", True),
}


@dataclass(frozen=True)
class Report:
    """What an update did. `before` is the name under which git keeps what was committed and staged, if it does."""

    version: str
    changes: list[Change]
    before: str = ""

    def __str__(self) -> str:
        lines = [f"Version {self.version}."]
        for kind, (words, is_named) in SAID.items():
            here = [change for change in self.changes if change.kind == kind]
            if is_named:
                lines += [f"  {change.path}: {words} {change.other}".rstrip() for change in here]
            elif here:
                lines.append(f"  {len(here)} files {words}")
        if not self.changes:
            lines.append("  Nothing had to be changed.")
        if any(change.path in NEEDS for change in self.changes):
            lines.append(f"What the course needs has changed: {how_to_add()}")
        return "\n".join(lines)


def update(folder: Path, source: Path | None = None, say: Callable[[str], object] = print) -> Report:
    """Bring the newest version into `folder`: from its git remote, or from `source`, a folder or a zip.

    ValueError for a folder or a source that can't be used. StoppedError where the disk, or another program, stands in
    the way.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    is_clone = (folder / ".git").exists()
    if not is_clone and source is None:
        raise ValueError(f"{folder} is no clone, so say where the new version is: --from FOLDER, or a zip file")
    if not is_clone and not _is_handed_out(folder):
        raise ValueError(f"{folder} holds neither the course nor a release of it; go to the folder that you unpacked")
    try:
        with _alone(folder):
            if (folder / UNDER_WAY).exists():
                say(f"An update that was interrupted goes on. What it set aside is in {BEFORE}/.")
            return _from_git(folder, source, say) if is_clone else _from_files(folder, source, say)
    except OSError as error:
        reason = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        raise StoppedError(f"the update stopped: {reason}{where}. Nothing is lost; then run it again.") from error


def _is_handed_out(folder: Path) -> bool:
    return (folder / MANIFEST).exists() or (folder / "course_utils").is_dir()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one update at a time; the system gives the lock back when its process ends, however it ends."""
    import filelock

    safe_files.make_folders(folder, folder / OURS)
    lock = filelock.FileLock(folder / OURS / "lock", timeout=0)
    try:
        with lock:
            safe_files.remove_drafts(folder)
            yield
    except filelock.Timeout as error:
        raise ValueError(f"another update of {folder} is at work; wait for it") from error


# ---------------------------------------------------------------- what is under way


@dataclass
class UnderWay:
    """What an update that has not ended began with, and what it has put, or may have put, into the folder."""

    base: str
    attempted: dict[str, list[str]]

    @classmethod
    def read(cls, folder: Path) -> UnderWay | None:
        """That of a killed run, if there is one."""
        try:
            content = json.loads((folder / UNDER_WAY).read_text("utf-8"))
            return cls(content["base"], content["attempted"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def attempt(self, base: Version | None, new: Version) -> None:
        """`new` is about to be put into the folder."""
        known = base.files if base else {}
        for path, fingerprint in new.files.items():
            before = self.attempted.get(path, [])
            if fingerprint != known.get(path) and fingerprint not in before:
                self.attempted[path] = [*before, fingerprint]

    def save(self, folder: Path) -> None:
        """Say so on the disk."""
        text = json.dumps({"base": self.base, "attempted": self.attempted})
        safe_files.replace(folder, UNDER_WAY, text.encode())

    @staticmethod
    def end(folder: Path) -> None:
        """All is in place."""
        with suppress(FileNotFoundError):
            os.unlink(folder / UNDER_WAY)


# ---------------------------------------------------------------- the rules


class Bringing:
    """Brings the files of `new` into `folder`, where `base` was handed out (None: nobody knows what was)."""

    def __init__(self, folder: Path, base: Version | None, new: Version, attempted: dict[str, list[str]]) -> None:
        self.folder, self.base, self.new, self.attempted = folder, base, new, attempted
        self.stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        self.changes: list[Change] = []

    def bring_all(self) -> list[Change]:
        """Every file, one after the other; each step leaves all that the student has written somewhere."""
        for path in self.new.files:
            self._refuse_links(path)
        for path in sorted(self.new.files):
            self._bring(path)
        if self.base and self.new.is_whole:
            for path in sorted(set(self.base.files) - set(self.new.files)):
                self._take_out(path)
        self._prune()
        return [self._looked_at_again(change) for change in self.changes]

    def _looked_at_again(self, change: Change) -> Change:
        """A file that was saved while it was replaced is no longer what was handed out: it is named."""
        is_left = change.kind == "renewed" and os.path.lexists(self.folder / change.other)
        return replace(change, kind="aside") if is_left else change

    def _refuse_links(self, path: str) -> None:
        """ValueError if `path` leads through a link, perhaps out of the folder."""
        for parent in list(PurePosixPath(path).parents)[:-1]:
            if (self.folder / parent).is_symlink():
                raise ValueError(f"{parent} is a link, and an update writes only into its own folder; remove the link")

    def _bring(self, path: str) -> None:
        """One file of the new version."""
        if not os.path.lexists(self.folder / path):
            self._make_way(path)
            self._put(path, "new")
            return
        raw = self._read(path)
        here = self.new.fingerprint(raw) if raw is not None else ""
        wanted = self.new.files[path]
        if here == wanted:
            return
        if here in self._known(path):
            self._swap(path, "renewed")
        elif self.base and path not in self.base.files:
            self._put(path, "renamed", self._rename(path))
        elif not self.base or self.base.files[path] != wanted:
            self._renew_edited(path, raw)

    def _renew_edited(self, path: str, raw: bytes | None) -> None:
        """The student has changed a file, and so has the new version."""
        if raw is None:  # a folder or a link is where the file was
            self._put(path, "renamed", self._rename(path))
        elif not path.endswith(".ipynb"):
            self._swap(path, "aside")
        else:
            self._renew_notebook(path, versions.written_cells(raw))

    def _renew_notebook(self, path: str, written: str) -> None:
        """A notebook that was run or edited; `written` is the fingerprint of its cells, "" if it can't be read."""
        if written and written == self.new.written(path):
            return
        if written and self.base and written == self.base.written(path):
            self._swap(path, "run")
        else:
            self._put_beside(path)

    def _read(self, path: str) -> bytes | None:
        """The content of an ordinary file; None for a folder or a link."""
        place = self.folder / path
        return place.read_bytes() if place.is_file() and not place.is_symlink() else None

    def _known(self, path: str) -> list[str]:
        """The fingerprints of what was handed out under this name."""
        before = [self.base.files[path]] if self.base and path in self.base.files else []
        return before + self.attempted.get(path, [])

    def _put(self, path: str, kind: str, other: str = "") -> None:
        """The new file, where nothing is now."""
        safe_files.write(self.folder, path, self.new.read(path), path in self.new.executable)
        self.changes.append(Change(path, kind, other))

    def _put_beside(self, path: str) -> None:
        """The new notebook beside the student's, unless an update that was killed has put it there."""
        name = re.sub(r"[^\w.-]+", "_", self.new.name)
        tag = f"new-{name[:40]}"
        content = self.new.read(path)
        beside = Path(path).with_name(f"{Path(path).stem}.{tag}.ipynb").as_posix()
        if self._read(beside) != content:
            beside = safe_files.free_name(self.folder, path, tag)
            safe_files.write(self.folder, beside, content)
        self.changes.append(Change(path, "kept", beside))

    def _swap(self, path: str, kind: str) -> None:
        """The new file in the place of the old, which is set aside whatever it has become meanwhile."""
        content = self.new.read(path)  # read before anything moves
        aside = self._aside(path)
        safe_files.move(self.folder, path, aside)
        safe_files.write(self.folder, path, content, path in self.new.executable)
        self.changes.append(Change(path, kind, aside))

    def _aside(self, path: str) -> str:
        """A free name in the folder of what was there before."""
        name = f"{BEFORE}/{self.stamp}/{path}"
        return safe_files.free_name(self.folder, name, "older") if os.path.lexists(self.folder / name) else name

    def _rename(self, path: str) -> str:
        """Give what the student has under this name another one beside it, and return that."""
        other = safe_files.free_name(self.folder, path, f"mine-{self.stamp}")
        safe_files.move(self.folder, path, other)
        return other

    def _make_way(self, path: str) -> None:
        """A file of the student's that stands where a folder has to be is renamed."""
        for parent in reversed(list(PurePosixPath(path).parents)[:-1]):
            place = self.folder / parent
            if os.path.lexists(place) and not place.is_dir():
                name = parent.as_posix()
                self.changes.append(Change(name, "renamed", self._rename(name)))

    def _take_out(self, path: str) -> None:
        """A file that is no longer part of the course."""
        if not os.path.lexists(self.folder / path):
            return
        raw = self._read(path)
        if raw is not None and self.new.fingerprint(raw) in self._known(path):
            safe_files.move(self.folder, path, self._aside(path))
            self.changes.append(Change(path, "gone"))
            self._remove_empty((self.folder / path).parent)
        else:
            self.changes.append(Change(path, "left"))

    def _prune(self) -> None:
        """Remove what was set aside and is no more than what was handed out, also by an update that was killed."""
        for stamp in sorted((self.folder / BEFORE).glob("*/")):
            for place in sorted(stamp.rglob("*")):
                path = place.relative_to(stamp).as_posix()
                if place.is_file() and not place.is_symlink() and self._is_handed_out(path, place):
                    os.unlink(place)
                    self._remove_empty(place.parent)

    def _is_handed_out(self, path: str, place: Path) -> bool:
        return self.new.fingerprint(place.read_bytes()) in self._known(path)

    def _remove_empty(self, place: Path) -> None:
        """Remove a folder that has become empty, and those above it."""
        while place != self.folder and not any(place.iterdir()):
            os.rmdir(place)
            place = place.parent


# ---------------------------------------------------------------- a folder without git


def _from_files(folder: Path, source: Path, say: Callable[[str], object]) -> Report:
    """From a release or an archive, with what the folder's manifest says of the last one."""
    new = versions.open_source(source)
    base = versions.handed_out(folder)
    if base is None:
        say(f"There is no sound {MANIFEST} here, so nobody knows what was handed out: what differs counts as yours.")
    under_way = UnderWay.read(folder) or UnderWay("", {})
    under_way.attempt(base, new)
    under_way.save(folder)
    changes = Bringing(folder, base, new, under_way.attempted).bring_all()
    safe_files.replace(folder, MANIFEST, versions.text_of(_joined(base, new)))
    UnderWay.end(folder)
    return Report(new.name, changes)


def _joined(base: Version | None, new: Version) -> dict[str, object]:
    """The manifest of what is handed out now; a release of another unit stays in it."""
    files = (base.files if base else {}) | new.files
    listed = {}
    for path, fingerprint in sorted(files.items()):
        listed[path] = {"sha256": fingerprint}
        owner = new if path in new.files else base
        if owner and path.endswith(".ipynb"):
            listed[path]["cells"] = owner.written(path)
    return {"course": new.name, "files": listed}


# ---------------------------------------------------------------- a clone


def _from_git(folder: Path, source: Path | None, say: Callable[[str], object]) -> Report:
    """From the remote of a clone, or from another clone. HEAD and index move when all files are in place."""
    clone = Clone(folder)
    _refuse_half_done(clone)
    remote, branch = _tracked(clone)
    address = _address(clone, remote, source)
    killed = UnderWay.read(folder)
    if killed:
        _remove_stale_locks(clone, folder)
    seen = [f"refs/remotes/{remote}/{branch}", NEWEST]
    seen = [commit for name in seen if (commit := clone.commit(name))]
    under_way = killed or UnderWay(clone.commit("HEAD"), {})
    under_way.save(folder)  # from here on, locks that are found after a kill are ours
    try:
        new_commit = _fetch(clone, remote if source is None else address, address, branch, say)
    except ValueError:
        if not killed:
            UnderWay.end(folder)
        raise
    common = clone.knows("merge-base", "HEAD", new_commit)
    before = _keep_committed(clone) if common != new_commit or killed else ""
    under_way.base = clone.knows("merge-base", "HEAD", new_commit, *seen) or under_way.base
    base, new = clone.version(under_way.base), clone.version(new_commit)
    under_way.attempt(base, new)
    under_way.save(folder)
    changes = Bringing(folder, base, new, under_way.attempted).bring_all()
    if before:
        _move_head(clone, new_commit)
    UnderWay.end(folder)
    return Report(new.name, changes, before)


def _refuse_half_done(clone: Clone) -> None:
    """ValueError where git has a merge, a rebase or the like half done."""
    for name in BUSY:
        if (clone.gits_own / name).exists():
            raise ValueError(f"git has left something half done here ({name}); `git status` says how to end it")
    if (clone.gits_own / "index.lock").exists():
        raise ValueError("another git is at work here, or was killed; when none is, remove .git/index.lock")
    if clone.ask("ls-files", "--unmerged"):  # after `git stash pop`, for example
        raise ValueError("git has left conflicts here; `git status` names the files and says how to end it")


def _tracked(clone: Clone) -> tuple[str, str]:
    """The remote and the branch that new versions come from."""
    branch = clone.knows("symbolic-ref", "-q", "--short", "HEAD")
    if not branch:
        raise ValueError(
            f"{clone.folder} is pinned to one version (it is on no branch); a newer release brings its own"
        )
    remote = clone.knows("config", f"branch.{branch}.remote")
    merged = clone.knows("config", f"branch.{branch}.merge").removeprefix("refs/heads/")
    if remote and remote != "." and merged:
        return remote, merged
    default = clone.knows("symbolic-ref", "-q", "--short", "refs/remotes/origin/HEAD").removeprefix("origin/")
    return "origin", default or branch


def _address(clone: Clone, remote: str, source: Path | None) -> str:
    """Where the new version is; ValueError if nobody has said so, or if it is no clone."""
    if source is None:
        address = clone.knows("remote", "get-url", remote)
        if not address:
            raise ValueError(f"{clone.folder} has no remote {remote}; say where the new version is: --from CLONE")
        return address
    if not (source / ".git").exists() and not (source / "HEAD").exists():
        raise ValueError(f"{clone.folder} is a clone, and {source} is none; leave --from out, or name a clone")
    return str(source.resolve())


def _fetch(clone: Clone, remote: str, address: str, branch: str, say: Callable[[str], object]) -> str:
    """The newest commit, brought into the clone."""
    network = "" if Path(address).exists() else " (network)"
    shown = re.sub(r"//[^/@]*@", "//", address)  # it may hold a password
    say(f"Asking {shown} for what is new{network}.")
    clone.ask("fetch", "-q", "--no-tags", remote, f"+refs/heads/{branch}:{NEWEST}")
    return clone.commit(NEWEST)


def _keep_committed(clone: Clone) -> str:
    """Let a name of git hold what is committed and staged now; returns it."""
    head = clone.commit("HEAD")
    staged = clone.ask("write-tree", index=_copy_of_index(clone))
    if staged != clone.ask("rev-parse", "HEAD^{tree}"):
        head = clone.ask("commit-tree", staged, "-p", head, "-m", "Staged before an update of the course")
    name = f"refs/course/before/{datetime.datetime.now():%Y%m%d-%H%M%S-%f}"
    clone.ask("update-ref", name, head)
    return name


def _copy_of_index(clone: Clone) -> Path:
    """An index of our own: git leaves a lock beside the one that it works on when it is killed."""
    index = clone.gits_own / "course-index"
    for left_over in (index, index.with_name(f"{index.name}.lock")):
        left_over.unlink(missing_ok=True)
    if (clone.gits_own / "index").exists():
        index.write_bytes((clone.gits_own / "index").read_bytes())
    return index


def _move_head(clone: Clone, new: str) -> None:
    """HEAD and index at the new version; the student's commits, if there are any, stay in its history."""
    head = clone.commit("HEAD")
    common = clone.knows("merge-base", head, new)
    target = head if common == new else new
    if common not in (head, new):  # commits of the student's own
        tree = clone.ask("rev-parse", f"{new}^{{tree}}")
        target = clone.ask("commit-tree", tree, "-p", head, "-p", new, "-m", "New version of the course")
    index = _copy_of_index(clone)
    clone.ask("read-tree", target, index=index)
    clone.ask("update-ref", "-m", "course update", "HEAD", target, head)
    os.replace(index, clone.gits_own / "index")


def _remove_stale_locks(clone: Clone, folder: Path) -> None:
    """Remove git's locks that are younger than a killed update: they are its own, and it never locks the index."""
    begun = (folder / UNDER_WAY).stat().st_mtime
    top = clone.gits_own
    locks = [*top.glob("*.lock"), *(top / "refs").rglob("*.lock")]
    for lock in locks:
        if lock.name != "index.lock" and lock.stat().st_mtime >= begun - 1:
            lock.unlink(missing_ok=True)
