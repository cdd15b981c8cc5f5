"""Getting a model's files from the hub: announced, checked, and with errors that say what to do."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from course_utils import bundled, offline
from course_utils.catalogue import Model
from course_utils.hardware import hub_cache

PATIENCE = 20  # seconds that a "too many requests" is waited out; longer waits are left to the reader
SPARE_BYTES = 2**30  # disk space that a download must leave free


class DownloadError(RuntimeError):
    """A model cannot be had. `problem` says why, `cure` what the reader can do about it."""

    def __init__(self, problem: str, cure: str, network: bool = True, wait: int | None = None):
        super().__init__(f"{problem}. {cure}")
        self.problem, self.cure = problem, cure
        self.network = network  # False if nothing else can be downloaded either
        self.wait = wait  # seconds after which the hub wants to be asked again


def fetch(model: Model, say: Callable[[str], None] = print) -> Path:
    """The folder with the model's files, downloaded if they are not in the cache yet.

    Says size and licence before it downloads. DownloadError for whatever goes wrong.
    """
    if model.cached_folder:
        return model.cached_folder
    if offline.is_offline():
        cure = "Unset COURSE_OFFLINE and HF_HUB_OFFLINE and restart the kernel."
        raise DownloadError("the course runs offline and the model is not in the cache", cure, network=False)
    try:
        return _download(model, say)
    except DownloadError as error:
        if not error.wait or error.wait > PATIENCE:
            raise
        say(f"The hub is busy and asks to wait {error.wait} s. Waiting ...")
        time.sleep(error.wait)
        return _download(model, say)


def _download(model: Model, say: Callable[[str], None]) -> Path:
    try:
        details = {name: _details(model, name) for name in model.files}
        total = sum(detail.size or 0 for detail in details.values())
        say(
            f"Downloading {model.id} ({total / 1e9:.2f} GB, licence {model.licence}) "
            f"from {offline.hub_address()} to {hub_cache()}"
        )
        _check_disk(total)
        for name, detail in details.items():
            _check_sum(_get(model, name), detail.etag)
    except DownloadError:
        raise
    except Exception as error:  # the libraries underneath raise many kinds; all mean: no model
        raise explain(error, model) from error
    return model.cached_folder


def _details(model: Model, name: str):
    """Size and checksum of one file, asked for without retries: a refusal is told at once."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    address = offline.hub_address()
    url = hf_hub_url(model.id, name, revision=model.revision, endpoint=address)
    return get_hf_file_metadata(url, timeout=10, endpoint=address)


def _get(model: Model, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            model.id,
            name,
            revision=model.revision,
            cache_dir=hub_cache(),
            endpoint=offline.hub_address(),
        )
    )


def _check_disk(needed: int) -> None:
    place = hub_cache()
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if free < needed + SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")


def _check_sum(path: Path, expected: str | None) -> None:
    """Compare a large file with the SHA-256 that the hub names; small ones carry a git hash instead."""
    if not expected or len(expected) != 64 or bundled.sha256(path) == expected:
        return
    path.resolve().unlink()  # the file behind the cache's link, or a retry would find it again
    path.unlink(missing_ok=True)
    raise DownloadError(
        f"{path.name} arrived damaged (its SHA-256 is not the one the hub names)",
        "The damaged file is deleted; run the cell again to download it anew.",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain(error: Exception, model: Model) -> DownloadError:
    """Turn whatever the libraries raised into what happened and what to do."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if response is not None and response.status_code >= 400:
            return _refusal(response, model)
        if getattr(link, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            cure = f"Free {model.download_gb:.1f} GB, or set HF_HOME to a folder on a larger disk."
            return DownloadError(f"the disk is full ({os.strerror(link.errno)}: {hub_cache()})", cure)
        if isinstance(link, PermissionError):
            cure = "Set HF_HOME to a folder that you can write to, and restart the kernel."
            return DownloadError(f"the cache {hub_cache()} cannot be written", cure)
    names = {type(link).__name__ for link in _chain(error)}
    if names & {"RemoteProtocolError", "ReadError", "ReadTimeout"} or "Consistency check" in str(error):
        cure = "Run the cell again; what has arrived already is kept."
        return DownloadError("the connection was cut off during the download", cure)
    if names & {"ConnectError", "ConnectTimeout", "ConnectionRefusedError", "gaierror", "OfflineError"}:
        cure = "Check the network and run the cell again; for a mirror set HF_ENDPOINT, for a proxy HTTPS_PROXY."
        return DownloadError(f"no connection to {offline.hub_address()}", cure, network=False)
    first_line = (str(error).strip() or "no details").splitlines()[0]
    return DownloadError(f"{type(error).__name__}: {first_line}", "Run the cell again.")


def _refusal(response, model: Model) -> DownloadError:
    """What an HTTP status from the hub means for the reader."""
    code, page = response.status_code, f"{offline.HUB}/{model.id}"
    after = response.headers.get("Retry-After", "")
    if code == 429:
        wait = int(after) if after.isdigit() else None
        asks = f" and asks to wait {wait} s" if wait else ""
        return DownloadError(
            f"the hub answers 429, too many requests from this network address{asks}",
            "Wait and run the cell again. A class behind one address shares the limit: a free token "
            "in HF_TOKEN or a shared HF_HOME helps.",
            wait=wait,
        )
    if code in (401, 403):
        what = "wants a login" if code == 401 else "denies access; the model may be gated"
        cure = f"Open {page}, accept its terms if it asks, and set HF_TOKEN to a token of your account."
        return DownloadError(f"the hub answers {code}: it {what}", cure)
    if code == 404:
        cure = "Update the course (git pull); if HF_ENDPOINT is set, that mirror may not have the model."
        what = f"it has no {model.id} at revision {model.revision[:8]}"
        return DownloadError(f"the hub answers 404: {what}", cure)
    return DownloadError(f"the hub answers {code}", "That is a problem on its side: try again later.")
