"""What a student has done, kept in one JSON file on this machine. It is never sent anywhere.

The file is ~/.local/share/genai-course/progress.json (below XDG_DATA_HOME, where that is set), so it survives
a `git pull`, a `git clean` and a new copy of the course. COURSE_PROGRESS_FILE names another file.
COURSE_PROGRESS=off keeps everything in memory until Python ends; tests and builds of notebooks run like that.

Several notebooks may write at once: a lock file beside the file lets one after the other read, change and
write it. A file that is not ours is never written, nor moved.

On a hosted machine, `colab.keep()` asks for copies that outlive it (copies.py): they are written after the file, and
read when `keep` is called.
"""

import codecs
import contextlib
import copy
import datetime
import json
import os
import random
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from course_utils import settings
from course_utils.exercises import copies, renames

KINDS = ("exercises", "quizzes")
STATUSES = ("open", "tried", "done")  # in the order in which they are reached
MOST = 1_000_000  # tries or hints; more than that nobody has made
BIGGEST = 5_000_000  # bytes of a progress file; ours have thousands

PATIENCE = 6.0  # seconds to wait for the file while others write it
LEFT_OVER = 3.0  # seconds after which a lock that nobody touches is one of a process that was killed

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """What is known of one exercise or quiz. `status` is open, tried or done and never goes back.

    `attempts` counts until it is done; `done_on` is the day (2026-01-31), empty before.
    """

    status: str = "open"
    attempts: int = 0
    hints: int = 0
    solution_shown: bool = False
    done_on: str = ""


_EMPTY = asdict(Record())


class _Damaged(ValueError):
    """A file of ours that can't be read as one."""


class _Refused(OSError):
    """A path that is no file of ours: a device, a pipe, or something that another program has written."""


_memory: dict[str, Any] = {}  # what is known where no file is read or written
_in_memory = False  # set when the file can't be used
_said: set[str] = set()


def recording() -> bool:
    """Whether progress goes to the file."""
    return not recording_is_off() and not _in_memory


def recording_is_off() -> bool:
    """Whether COURSE_PROGRESS says that nothing is to be written."""
    return os.environ.get("COURSE_PROGRESS", "").strip().lower() in {"off", "0", "no", "false"}


def file() -> Path:
    """Where progress is kept; in a private temporary folder, said aloud, where the user's own can't be written."""
    if chosen := _chosen():
        return chosen
    folder = settings.user_data() / settings.OURS
    if settings.home() is None or not settings.writable(folder):
        folder = settings.private_folder()
        _say_once(f"Your home folder can't be written to. Progress is kept in {folder}; it may not last.")
    return folder / "progress.json"


def _chosen() -> Path | None:
    """The file that COURSE_PROGRESS_FILE names; None where it names none."""
    text = os.environ.get("COURSE_PROGRESS_FILE")
    return settings.user_path(text) if text else None


def get(kind: str, name: str) -> Record:
    """What is known of `name`, which is one of the "exercises" or "quizzes"."""
    return _record(_read(), kind, name)


def put(kind: str, name: str, record: Record) -> None:
    """Keep `record`. What another notebook has written since stays: nothing that was done gets undone.

    A file that can't be written is reported once and never an error.
    """
    _put_all([(kind, name, record)])


def _put_all(records: list[tuple[str, str, Record]]) -> None:
    """`put` for (kind, name, record) of many, which are written and copied together."""
    content = _into_file(records) if recording() else None
    if content is None:
        _merge_all(_memory, records)
        content = _memory
    if not recording_is_off():
        copies.write(_text(content))


def _into_file(records: list[tuple[str, str, Record]]) -> dict[str, Any] | None:
    """What the file holds after `records` were added; None, and what was read is in memory, if it can't be written."""
    content = None
    try:
        path = file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            content = _load_or_put_aside(path)
            _merge_all(content, records)
            _write(path, content)
            return content
    except OSError as error:
        _forget_file(error)
    _memory.update(content or {})
    return None


def _merge_all(content: dict[str, Any], records: list[tuple[str, str, Record]]) -> None:
    for kind, name, record in records:
        _merge(content, kind, name, record)


def _record(content: dict[str, Any], kind: str, name: str) -> Record:
    """The record of `name` in what a file holds; an empty one if there is none."""
    entry = content.get(kind, {}).get(name, {})
    return Record(**{field: entry[field] for field in _EMPTY if field in entry})


def _merge(content: dict[str, Any], kind: str, name: str, record: Record) -> None:
    """Put `record` into `content`; of both records, each field keeps what is further on."""
    known = _record(content, kind, name)
    merged = Record(
        status=max(known.status, record.status, key=STATUSES.index),
        attempts=max(known.attempts, record.attempts),
        hints=max(known.hints, record.hints),
        solution_shown=known.solution_shown or record.solution_shown,
        done_on=known.done_on or record.done_on,
    )
    content.setdefault(kind, {}).setdefault(name, {}).update(asdict(merged))


def tried(record: Record) -> Record:
    """`record` after a try that did not pass."""
    return record if record.status == "done" else replace(record, status="tried", attempts=record.attempts + 1)


def done(record: Record) -> Record:
    """`record` after a try that passed: with today's date, unless it was done before."""
    today = datetime.date.today().isoformat()
    return record if record.status == "done" else replace(tried(record), status="done", done_on=today)


# ---------------------------------------------------------------- copies that outlive the machine

SETTLED = 24 * 3600  # seconds after which a copy has certainly reached the Drive


def join_kept() -> int:
    """Add what other sessions have kept to this machine's progress, and copy all of it there.

    Returns how many exercises and quizzes are known now. Copies that say nothing new are removed once they are old.
    """
    if recording_is_off():
        return 0
    sound = _sound_copies()
    known = _records(_read())
    for content in sound.values():
        known += _records(content)
    if known:
        _put_all(known)
    for path in _superseded(sound):
        copies.remove(path)
    names = {(kind, renames.current(name)) for kind, name, _ in _records(_read())}
    return len(names)


def _sound_copies() -> dict[Path, dict[str, Any]]:
    """What the kept copies hold. A damaged one is left alone, aloud: the session's other copy is nearly the same."""
    sound = {}
    for path, raw in copies.read().items():
        try:
            sound[path] = _sound(raw)
        except _Damaged:
            _say_once(f"{path} is damaged, perhaps cut off with its machine. It is left as it is, and not read.")
    return sound


def _records(content: dict[str, Any]) -> list[tuple[str, str, Record]]:
    """All that a file knows, as `_put_all` takes it."""
    found = []
    for kind in KINDS:
        for name in content.get(kind, {}):
            found.append((kind, name, _record(content, kind, name)))
    return found


def _superseded(sound: dict[Path, dict[str, Any]]) -> list[Path]:
    """Old copies whose every record is in another old copy, too."""
    now = time.time()
    left = {path: content for path, content in sound.items() if now - _changed(path) > SETTLED}
    useless = []
    for path in list(left):
        content = left.pop(path)
        if any(_adds_nothing(content, other) for other in left.values()):
            useless.append(path)
        else:
            left[path] = content
    return useless


def _changed(path: Path) -> float:
    """When a copy was written; for one that is gone, now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _adds_nothing(content: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether `other` stays as it is when `content` is merged into it."""
    merged = copy.deepcopy(other)
    _merge_all(merged, _records(content))
    return _records(merged) == _records(other)


# ---------------------------------------------------------------- reading


def _read() -> dict[str, Any]:
    """The file's content, or what is in memory. A damaged file is put aside and reported."""
    if not recording():
        return _memory
    try:
        path = file()
        try:
            return _load(path)
        except _Damaged:
            with _locked(path):
                return _load_or_put_aside(path)
    except OSError as error:
        _forget_file(error)
    return _memory


def _load_or_put_aside(path: Path) -> dict[str, Any]:
    """The file's content; that of a new file where it is damaged. To be called with the lock held."""
    try:
        return _load(path)
    except _Damaged:
        _put_aside(path)
        return {}


def _load(path: Path) -> dict[str, Any]:
    """The content of a progress file, {} if there is none. _Damaged or OSError if it can't be had."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return {}
    if not stat.S_ISREG(found.st_mode):
        raise _Refused(f"{path} is no ordinary file")
    if found.st_size > BIGGEST:
        raise _Refused(f"{path} is no progress file of this course: it has {found.st_size:,} bytes")
    raw = _insist(path.read_bytes)
    if not _is_ours(raw):
        raise _Refused(f"{path} is no progress file of this course")
    return _sound(raw)


def _is_ours(raw: bytes) -> bool:
    """Whether a file, damaged or not, is one that the course has written, so that it may be replaced."""
    if _chosen() is None:
        return True  # nobody else writes into our own folder
    text = raw.strip().removeprefix(codecs.BOM_UTF8)
    names_ours = any(f'"{kind}"'.encode() in text for kind in KINDS)
    return text in (b"", b"{}") or (text.startswith(b"{") and names_ours)


def _sound(raw: bytes) -> dict[str, Any]:
    """The records in a file, if all are of the right types and sizes; _Damaged if not. What is unknown is kept."""
    try:
        content = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _Damaged(str(error)) from error
    kinds = [content.get(kind, {}) for kind in KINDS] if isinstance(content, dict) else [None]
    if not all(isinstance(kind, dict) for kind in kinds):
        raise _Damaged("no tables of exercises and quizzes")
    if _nests_deeper(content, 20):
        raise _Damaged("nested so deeply that it might not be written again")
    for kind in kinds:
        for entry in kind.values():
            _check_entry(entry)
    _use_new_names(content)
    return content


def _use_new_names(content: dict[str, Any]) -> None:
    """What is kept under an earlier name counts for the new one. It stays, for an older course on this machine."""
    for kind in KINDS:
        for old, new in renames.in_table(content.get(kind, {})):
            _merge(content, kind, new, _record(content, kind, old))


def _no_number(word: str) -> None:
    """NaN and Infinity are not JSON, though Python's reader lets them pass."""
    raise ValueError(f"{word} is not a number")


def _nests_deeper(content: Any, limit: int) -> bool:
    """Whether there are lists or tables in each other more than `limit` times."""
    level = [content]
    for _ in range(limit):
        deeper: list[Any] = []
        for node in level:
            deeper += _inside(node)
        level = deeper
    return bool(level)


def _inside(node: Any) -> list[Any]:
    """What a table or a list holds; nothing for a text or a number."""
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _check_entry(entry: Any) -> None:
    """_Damaged unless `entry` is what `asdict` makes of a Record, perhaps with more fields."""
    if not isinstance(entry, dict):
        raise _Damaged("no record")
    record = _EMPTY | entry
    for name, nothing in _EMPTY.items():
        if type(record[name]) is not type(nothing):
            raise _Damaged(f"{name} is of the wrong type")
    if record["status"] not in STATUSES:
        raise _Damaged("there is no such status")
    if not (0 <= record["attempts"] <= MOST and 0 <= record["hints"] <= MOST):
        raise _Damaged("a number that can't be")
    if not re.fullmatch(r"(\d{4}-\d\d-\d\d)?", record["done_on"]):
        raise _Damaged("no date")


def _put_aside(path: Path) -> None:
    """Rename a damaged file to .broken, .broken2 and so on: someone may still repair it."""
    names = (path.with_name(f"{path.name}.broken{i or ''}") for i in (0, *range(2, 1000)))
    aside = next(name for name in names if not name.exists())
    _insist(lambda: os.replace(path, aside))
    _say_once(f"The file with your progress was damaged. It is kept as {aside}, and a new one is begun.")


# ---------------------------------------------------------------- writing


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write in one step, so that a kill leaves the old file or the new one, never half a file."""
    target = path.resolve()  # a link stays a link
    handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(_text(content))
        _insist(lambda: os.replace(draft, target))
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def _text(content: dict[str, Any]) -> str:
    """A progress file."""
    return json.dumps({"version": 1} | content, indent=1, allow_nan=False) + "\n"


def _insist(action: Callable[[], T]) -> T:
    """What `action` returns. On Windows a file can't be replaced while another process reads it: tried again."""
    for _ in range(10):
        try:
            return action()
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(0.02)
    return action()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file beside `path`, which works on network folders, too. TimeoutError after PATIENCE seconds."""
    lock = path.with_name(f".{path.name}.lock")
    ours = _take(lock)
    try:
        yield
    finally:
        if _identity(lock) == ours:  # else we were so slow that another process took it for left over
            with suppress(OSError):
                lock.unlink()


def _take(lock: Path) -> tuple[int, int] | None:
    """Make the file `lock`, once nobody else has it; returns how to recognise it."""
    start = since = time.monotonic()
    seen = None
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            return _identity(lock)
        except FileExistsError:
            pass
        except PermissionError:
            if os.name != "nt" or not lock.exists():  # Windows says this of a file that is just being removed
                raise
        now, held = time.monotonic(), _identity(lock)
        if held != seen:
            seen, since = held, now
        elif held and now - since > LEFT_OVER:
            with suppress(OSError):
                lock.unlink()
        if now - start > PATIENCE:
            raise TimeoutError(None, "another program holds it")
        time.sleep(random.uniform(0.002, 0.02))


def _identity(lock: Path) -> tuple[int, int] | None:
    """What tells a lock file from the next one of that name; None if there is none."""
    try:
        found = lock.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


# ---------------------------------------------------------------- saying


def _forget_file(error: OSError) -> None:
    global _in_memory
    _in_memory = True
    why = error.strerror or str(error)
    said = f"Progress can't be kept in a file ({why}); it is forgotten when Python ends."
    if isinstance(error, _Refused):
        said += " The file is left as it is; COURSE_PROGRESS_FILE can name another one."
    _say_once(said)


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        print(text)
