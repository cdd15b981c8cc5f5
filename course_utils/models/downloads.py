"""Getting a model's files: announced, compared with the catalogue's checksums, and with errors that say what to do.

Every file is named in the catalogue by its SHA-256. What differs is not loaded, wherever it comes from: the hub, a
mirror, a shared cache. That is checked at each load; what was computed once is remembered (see `verified`).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import colab, settings
from course_utils.models import bundled, catalogue, offline, transfer
from course_utils.models.catalogue import File, Model
from course_utils.models.hardware import hub_cache
from course_utils.models.transfer import DownloadError

if TYPE_CHECKING:
    import httpx

PATIENCE = 20  # seconds that a "too many requests" is waited out; longer waits are left to the reader
WARNED = 5 * 10**9  # bytes from which a download is told in full: room, time, and what is smaller
LARGE = 2 * 10**9  # bytes whose checksums take long enough to be announced
QUEUE = 10  # seconds to wait for another process that downloads the same file


def fetch(model: Model, say: Callable[[str], None] = print) -> Path:
    """The folder with the model's files, each as the catalogue names it; what is missing or damaged is downloaded.

    Says size and licence before it downloads. DownloadError for whatever goes wrong.
    """
    if not model.files:
        raise DownloadError(f"the catalogue names no files of {model.id}", "Update the course (git pull).")
    unfit = [file for file in model.files if not _is_fit(model, file, say)]
    if not unfit:
        return _alone(model)
    damaged = [model.folder / file.name for file in unfit if (model.folder / file.name).exists()]
    if offline.is_offline():
        raise _not_here(damaged)
    for path in damaged:
        say(f"{path} is damaged (its SHA-256 is not the one in the catalogue), so it is downloaded anew.")
    try:
        _download(model, unfit, say)
    except DownloadError as error:
        if not error.wait or error.wait > PATIENCE:
            raise
        say(f"The hub is busy and asks to wait {error.wait} s. Waiting ...")
        time.sleep(error.wait)
        _download(model, [file for file in unfit if not _is_fit(model, file, say)], say)
    return _alone(model)


def _not_here(damaged: list[Path]) -> DownloadError:
    cure = "Unset COURSE_OFFLINE and HF_HUB_OFFLINE and restart the kernel."
    if not damaged:
        problem = "the course runs offline and the model is not in the cache"
        return DownloadError(problem, cure, network=False)
    names = ", ".join(str(path) for path in damaged)
    problem = f"the cache holds damaged files (their SHA-256 is not the one in the catalogue): {names}"
    return DownloadError(problem, f"Delete what is named, to download it anew. {cure}", network=False)


def _download(model: Model, files: list[File], say: Callable[[str], None]) -> None:
    total = sum(file.size for file in files)
    say(
        f"Downloading {model.id} ({total / 1e9:.2f} GB, licence {model.licence}) "
        f"from {offline.hub_name()} to {hub_cache()}"
    )
    try:
        places = {file: _part(model, file) for file in files}
        missing = total - sum(transfer.length(place) for place in places.values())
        _check_disk(missing)
        with transfer.connected() as client:
            small, large = _by_size(places)
            for file in small:  # first, so that their speed tells how long the large ones take
                _get(client, model, file, places[file])
            if missing >= WARNED:
                say(_warning(model, missing))
            for file in large:
                _get(client, model, file, places[file])
    except (OSError, NotImplementedError) as error:  # the latter from file systems without locks
        raise transfer.explain(error, size=total) from error


def _by_size(files: Iterable[File]) -> tuple[list[File], list[File]]:
    """Files of up to a tenth of what `WARNED` names, and the larger ones."""
    small = [file for file in files if file.size <= WARNED / 10]
    large = [file for file in files if file.size > WARNED / 10]
    return small, large


def _warning(model: Model, missing: int) -> str:
    """What a reader wants to know before `missing` bytes of `model` come. It warns and asks nothing: cells go on."""
    speed, known = transfer.speed()
    minutes = missing / 1e6 / speed / 60
    free = shutil.disk_usage(hub_cache()).free
    lines = [
        f"  {missing / 1e9:.1f} GB are still to come, and {free / 1e9:.0f} GB are free on this disk.",
        f"  About {minutes:.0f} minutes at {speed:.0f} MB/s ({known}). You can stop the cell: what has arrived stays.",
    ]
    if host := colab.host():
        lines.append(f"  {host} takes this machine back after some hours, and the download with it.")
    return "\n".join([*lines, *_smaller(model)])


def _smaller(model: Model) -> list[str]:
    """How to have the next smaller model instead; nothing where there is none to download."""
    tiers = catalogue.TIERS[1 : catalogue.TIERS.index(model.tier)]
    names = [name for name in tiers if name in catalogue.tiers_of(model.role)]
    if not names:
        return []
    less = catalogue.find(model.role, names[-1])
    setting = f'open_unit(..., tier="{less.tier}"), or COURSE_TIER={less.tier}'
    return [f"  Smaller: {less.id}, {less.download_gb:.1f} GB. {setting} asks for it."]


def _get(client: httpx.Client, model: Model, file: File, part: Path) -> None:
    """Download one file to `part`, and put it into its place if it is the one that the catalogue names."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(part.with_suffix(".lock"), timeout=QUEUE):
            if _is_fit(model, file):  # another process was faster
                return
            url = transfer.address(model.id, model.revision, file.name)
            tries = 2 if part.exists() else 1  # what was kept from earlier may not belong to it
            if not any(_arrives(client, url, file, part) for _ in range(tries)):
                raise _damaged(file)
            _place(model, file, part)
    except Timeout as error:
        cure = "Wait until it is done, and run the cell again."
        raise DownloadError("another process is downloading the same file", cure) from error


def _arrives(client: httpx.Client, url: str, file: File, part: Path) -> bool:
    """Bring `part` to its full length. Whether it is the file then; else it is removed."""
    if transfer.length(part) < file.size:
        transfer.receive(client, url, part, file.size)
    right = bundled.sha256(part) == file.sha256
    if not right:
        part.unlink()
    return right


def _damaged(file: File) -> DownloadError:
    problem = f"{file.name} arrived damaged (its SHA-256 is not the one in the catalogue)"
    cure = "It was not kept. Run the cell again; if HF_ENDPOINT names a mirror, try another or unset it."
    return DownloadError(problem, cure)


def _place(model: Model, file: File, part: Path) -> None:
    """Put a file that was compared into the snapshot."""
    path = _inside(model.folder / file.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, path)  # where a link stood, the link is replaced, not what it leads to
    _remember(path, file.sha256)


def _part(model: Model, file: File) -> Path:
    """Where an unfinished download is kept, under a name from the catalogue; nothing a server sends is in it."""
    folder = model.folder.parent.parent / "blobs"
    part = _inside(folder / f"{file.sha256}.incomplete")
    for path in (part, part.with_suffix(".lock")):
        if path.is_symlink():
            raise DownloadError(f"{path} is a link", "Remove it, and run the cell again.")
    folder.mkdir(parents=True, exist_ok=True)
    return part


def _inside(path: Path) -> Path:
    """`path`, if writing there stays inside the cache. A link in a shared cache could lead elsewhere."""
    root = hub_cache().resolve()
    if not path.parent.resolve().is_relative_to(root):
        cure = "Remove the link on the way to it, and run the cell again."
        raise DownloadError(f"{path} leads out of the cache {root}", cure)
    return path


def _alone(model: Model) -> Path:
    """A folder with the catalogue's files and nothing else.

    That is the snapshot, or links to its files: what else lies there (another program's files, or an adapter or a
    chat template that somebody put into a shared cache) would be read by the libraries, too.
    """
    names = {file.name for file in model.files}
    if {path.name for path in model.folder.iterdir()} == names:
        return model.folder
    view = settings.cache_dir() / "models" / model.revision
    view.mkdir(parents=True, exist_ok=True)
    for path in view.iterdir():
        if path.name not in names:
            path.unlink()
    for name in names:
        _link(model.folder / name, view / name)
    return view


def _link(file: Path, place: Path) -> None:
    """Let `place` lead to `file`; another process may be reading a link that is right already."""
    if place.exists() and place.samefile(file):
        return
    place.unlink(missing_ok=True)
    try:
        place.symlink_to(file.resolve())
    except OSError:  # Windows wants a privilege for that, and none for a second name on the same disk
        try:
            os.link(file.resolve(), place)
        except OSError as error:
            cure = f"Remove from {file.parent} what the catalogue does not name, and run the cell again."
            raise DownloadError("its folder in the cache holds other files, too", cure) from error


def _check_disk(missing: int) -> None:
    """DownloadError if `missing` bytes do not fit, and something to spare."""
    place = hub_cache()
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    wanted = missing + transfer.SPARE_BYTES
    if free < wanted:
        spare = f"{transfer.SPARE_BYTES / 1e9:.1f} GB that stay free"
        reason = f"{missing / 1e9:.1f} GB are missing besides {spare}, {free / 1e9:.1f} GB are there"
        raise transfer.no_room(wanted - free, reason)


# ---------------------------------------------------------------- checksums


def _is_fit(model: Model, file: File, say: Callable[[str], None] | None = None) -> bool:
    """Whether the cache holds the file that the catalogue names. Length first: it costs nothing."""
    path = model.folder / file.name
    try:
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        return verified(path, file.sha256, say)
    except OSError:
        return False


def verified(path: Path, expected: str, say: Callable[[str], None] | None = None) -> bool:
    """Whether the file's SHA-256 is the expected one.

    Computed once: as long as size, times and inode stay the same, a note outside the hub's cache is believed.
    """
    if _notes().get(str(path.resolve())) == [expected, *_marks(path)]:
        return True
    size = path.stat().st_size
    if say and size > LARGE:
        say(f"Checking {path.name} ({size / 1e9:.1f} GB) against the catalogue's SHA-256, once ...")
    if bundled.sha256(path) != expected:
        return False
    _remember(path, expected)
    return True


def _marks(path: Path) -> list[int]:
    """What changes when a file is written to."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _notebook() -> Path:
    return settings.cache_dir() / "verified.json"


def _notes() -> dict[str, list]:
    """Path -> SHA-256 and marks. Empty if there are none or they cannot be read: then it is computed again."""
    try:
        notes = json.loads(_notebook().read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _remember(path: Path, digest: str) -> None:
    """Note a computed checksum. Two processes may lose a note of each other's: it is computed again."""
    notes = _notes() | {str(path.resolve()): [digest, *_marks(path)]}
    fresh = _notebook().with_suffix(f".{os.getpid()}")
    try:
        fresh.write_text(json.dumps(notes), "utf-8")
        os.replace(fresh, _notebook())
    except OSError:
        pass  # nowhere to write: slower the next time, and no less safe
