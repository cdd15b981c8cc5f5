"""One file from the hub over HTTP, and what it means for the reader if that fails.

Nothing that a server names (an ETag, a redirect, a file name) becomes a path here: the caller says where to write.
"""

from __future__ import annotations

import email.utils
import errno
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from course_utils import colab
from course_utils.models import offline
from course_utils.models.hardware import hub_cache
from course_utils.models.model_files import first_line

if TYPE_CHECKING:
    import ssl

    import httpx

SILENCE = 10  # seconds without a byte after which a transfer counts as stalled
CONNECTING = 5  # seconds for finding the hub and shaking hands
SLOWEST = 1000  # bytes a second; less than that over SILENCE seconds is a stall, too
TRIES = 5  # how often a transfer that is cut off is taken up again, as long as each try brings something
SPARE_BYTES = 2**30  # disk space that a download must leave free
ORDINARY = 10  # MB/s of an ordinary connection, to estimate downloads where none was measured
TELLING = 5 * 10**6  # bytes that a transfer must have brought for its speed to say something


class DownloadError(RuntimeError):
    """A model cannot be had. `problem` says why, `cure` what the reader can do about it."""

    def __init__(self, problem: str, cure: str, network: bool = True, wait: int | None = None):
        super().__init__(f"{problem}. {cure}")
        self.problem, self.cure = problem, cure
        self.network = network  # False if nothing else can be downloaded either
        self.wait = wait  # seconds after which the hub wants to be asked again


class NotThere(DownloadError):
    """The hub has no such model, revision or file."""


class CutOff(ConnectionError):
    """An answer ended before the file was whole."""


class Stalled(ConnectionError):
    """Bytes come so slowly that waiting makes no sense."""


# ---------------------------------------------------------------- asking


def address(model: str, revision: str, name: str) -> str:
    """Where the hub, or the mirror in HF_ENDPOINT, has a file."""
    return f"{offline.hub_address()}/{model}/resolve/{revision}/{name}"


@contextmanager
def connected() -> Iterator[httpx.Client]:
    """A client for the hub. DownloadError if HF_ENDPOINT, the proxy or the token cannot work."""
    import httpx

    problem = offline.endpoint_problem()
    if problem:
        cure = f"Unset HF_ENDPOINT, or give it an address like {offline.HUB}, and restart the kernel."
        raise DownloadError(problem, cure, network=False)
    limits = httpx.Timeout(SILENCE, connect=CONNECTING)
    local = offline.is_local_hub()
    options = {"timeout": limits, "follow_redirects": True, "max_redirects": 5, "trust_env": not local}
    try:
        client = httpx.Client(headers=_headers(), verify=_certificates(), **options)
    except ImportError as error:  # httpx names its extra; the package in it is socksio
        cure = f"Install it (`{colab.how_to_add('socksio')}`) and restart the kernel, or unset ALL_PROXY."
        raise DownloadError("the proxy is a SOCKS proxy, which needs the package socksio", cure, False) from error
    except ValueError as error:
        cure = "It looks like http://host:port. Set HTTPS_PROXY so, or unset it, and restart the kernel."
        raise DownloadError("the proxy's address cannot be understood", cure, network=False) from error
    with client:
        yield client


@cache
def _certificates() -> ssl.SSLContext:
    """Whose signatures count for TLS, read once: that takes a tenth of a second. SSL_CERT_FILE may add some."""
    import httpx

    return httpx.create_ssl_context()


def _headers() -> dict[str, str]:
    """What every request carries. A token goes over TLS only; httpx leaves it out where a redirect changes hosts."""
    from huggingface_hub import get_token

    headers = {"User-Agent": "genai-course", "Accept-Encoding": "identity"}
    token = get_token()
    if not token or not (offline.is_local_hub() or offline.hub_address().startswith("https://")):
        return headers
    if not re.fullmatch(r"[!-~]+", token):
        raise DownloadError("HF_TOKEN holds characters that no token has", "Unset or renew HF_TOKEN.")
    return headers | {"Authorization": f"Bearer {token}"}


def receive(client: httpx.Client, url: str, part: Path, size: int) -> None:
    """Bring the file `part` to `size` bytes, going on where it ends.

    A transfer that is cut off is taken up again as long as that brings something. A server that ignores ranges
    begins anew, once. DownloadError says why it did not work; `part` is left for the next try.
    """
    for _ in range(TRIES):
        before, cut = length(part), None
        try:
            _append(client, url, part, size)
            return
        except Exception as error:  # the libraries underneath raise many kinds; all mean: no file
            cut = explain(error, part, size)
            again = isinstance(error, CutOff) or type(error).__name__ in CUT
        if not again or length(part) <= before:
            raise cut
    raise cut


def stream(client: httpx.Client, url: str) -> Iterator[bytes]:
    """The bytes of a file as they come. DownloadError if the hub does not give it."""
    try:
        with closing(_ask(client, url)) as answer:
            _first_byte(answer, 0)
            yield from _steadily(answer.iter_raw())
    except Exception as error:
        raise explain(error) from error


_speeds: list[float] = []  # MB/s of the transfers of this session that say something


def _measure(received: int, seconds: float) -> None:
    if received >= TELLING:
        _speeds.append(received / 1e6 / max(seconds, 1e-3))


def speed() -> tuple[float, str]:
    """MB/s to expect, and whether that is "measured" (the last long transfer of this session) or "assumed"."""
    return (_speeds[-1], "measured") if _speeds else (float(ORDINARY), "assumed")


def length(path: Path) -> int:
    """Bytes that are there; 0 if there is no file."""
    return path.stat().st_size if path.exists() else 0


def _ask(client: httpx.Client, url: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """The answer, up to its headers. Stalled if they are not there in time.

    In a thread, because a name look-up has no time limit of its own, and neither has a server that drips headers.
    """
    request = client.build_request("GET", url, headers=headers)
    outcome: list[httpx.Response | Exception] = []

    def send() -> None:
        try:
            outcome.append(client.send(request, stream=True))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(CONNECTING + SILENCE)
    if not outcome:
        raise Stalled
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _append(client: httpx.Client, url: str, part: Path, size: int) -> None:
    start = length(part)
    headers = {"Range": f"bytes={start}-"} if start else {}
    with closing(_ask(client, url, headers)) as answer:
        if answer.status_code == 416 and start:  # it has nothing from there on: begin anew, now without a range
            part.write_bytes(b"")
            return _append(client, url, part, size)
        start = _first_byte(answer, start)
        _check_length(answer, size - start)
        began = time.monotonic()
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            _copy(answer, file, size - start, url)
        _measure(length(part) - start, time.monotonic() - began)
    if length(part) < size:
        raise CutOff


def _copy(answer: httpx.Response, file: BinaryIO, room: int, url: str) -> None:
    """Write what comes, at most `room` bytes, and show how far it is in megabytes."""
    from course_utils import figures

    label = f"{url.rpartition('/')[2]} (MB)"
    chunks = figures.progress(_steadily(answer.iter_raw()), label, round(room / 1e6), lambda chunk: len(chunk) / 1e6)
    for chunk in chunks:
        room -= len(chunk)
        if room < 0:
            cure = "Run the cell again; if HF_ENDPOINT names a mirror, try another or unset it."
            raise DownloadError("the hub sends more bytes than the file has", cure)
        file.write(chunk)


def _first_byte(answer: httpx.Response, asked: int) -> int:
    """The position at which the answer begins: as asked, or 0 from a server that ignores ranges."""
    if answer.status_code >= 400:
        raise refusal(answer)
    if answer.status_code == 200:
        return 0
    told = re.match(r"bytes ([0-9]{1,15})-", answer.headers.get("Content-Range", ""))
    if answer.status_code == 206 and told and int(told[1]) == asked:
        return asked
    cure = "Run the cell again; if HF_ENDPOINT names a mirror, try another or unset it."
    raise DownloadError(f"the hub's answer ({answer.status_code}) is not what was asked for", cure)


def _check_length(answer: httpx.Response, expected: int) -> None:
    """An answer that is announced longer or shorter is another file: nothing of it is kept."""
    told = re.fullmatch(r"[0-9]{1,15}", answer.headers.get("Content-Length", ""))
    if told and int(told[0]) != expected:
        problem = f"the hub announces {int(told[0]):,} bytes in the place of {expected:,}: that is not the file"
        cure = "Open a web page: this network may want you to log in. If HF_ENDPOINT names a mirror, try another."
        raise DownloadError(problem, cure)


def _steadily(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same chunks; Stalled if a server only drips."""
    since, got = time.monotonic(), 0
    for chunk in chunks:
        got += len(chunk)
        passed = time.monotonic() - since
        if passed > SILENCE and got < SLOWEST * passed:
            raise Stalled
        if passed > SILENCE:
            since, got = time.monotonic(), 0
        yield chunk


# ---------------------------------------------------------------- explaining

CUT = {"RemoteProtocolError", "ReadError"}  # httpx's names, so that it need not be imported to explain
UNREACHABLE = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ConnectionRefusedError", "gaierror", "OfflineError"}
SILENT = {"ReadTimeout", "WriteTimeout"}
FULL = {errno.ENOSPC, errno.EDQUOT}


def explain(error: BaseException, part: Path | None = None, size: int = 0) -> DownloadError:
    """Turn whatever went wrong into what happened and what to do; `part` is what has arrived of `size` bytes."""
    if isinstance(error, DownloadError):
        return error
    name, place = type(error).__name__, offline.hub_name()
    if isinstance(error, CutOff) or name in CUT:
        return _cut_off("the connection was cut off during the download", part, size)
    if isinstance(error, Stalled) or name in SILENT:
        return _cut_off(f"the transfer has stalled: {place} sent next to nothing for {SILENCE} s", part, size)
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        cure = "Set SSL_CERT_FILE to your company's certificate, or this machine's clock, and restart the kernel."
        return DownloadError(f"the certificate of {place} cannot be verified", cure, network=False)
    if name == "ProxyError":
        cure = "Check HTTPS_PROXY (name, password), and run the cell again."
        return DownloadError("the proxy does not let the request through", cure, network=False)
    if name in UNREACHABLE:
        cure = "Check the network and run the cell again; for a mirror set HF_ENDPOINT, for a proxy HTTPS_PROXY."
        return DownloadError(f"no connection to {place}", cure, network=False)
    if isinstance(error, OSError):
        return _unwritable(error, size - (length(part) if part else 0))
    return DownloadError(f"{name}: {first_line(error)}", "Run the cell again.")


def _cut_off(problem: str, part: Path | None, size: int) -> DownloadError:
    kept = length(part) if part else 0
    if not kept:
        return DownloadError(problem, "Run the cell again.")
    arrived = f"{kept / 1e6:,.0f} of {size / 1e6:,.0f} MB are here"
    return DownloadError(problem, f"{arrived} and kept: run the cell again, and it goes on if the server can.")


def _unwritable(error: OSError, missing: int) -> DownloadError:
    """`missing` are the bytes that have not arrived yet."""
    reason = os.strerror(error.errno) if error.errno else first_line(error)
    if error.errno in FULL:
        return no_room(missing + SPARE_BYTES, reason)
    cure = "Set HF_HOME to a folder that you can write to, and restart the kernel."
    return DownloadError(f"the cache {hub_cache()} cannot be written ({reason})", cure)


def no_room(to_free: int, reason: str) -> DownloadError:
    """`to_free` counts the bytes that a download leaves free, too."""
    cure = f"Free {to_free / 1e9:.1f} GB there, or set HF_HOME to a folder on a larger disk."
    return DownloadError(f"the disk is full ({reason}: {hub_cache()})", cure)


def refusal(answer: httpx.Response) -> DownloadError:
    """What an HTTP status of 400 or more from the hub means for the reader."""
    code = answer.status_code
    if code == 429:
        return _too_many(answer)
    if code in (401, 403):
        return _no_access(answer)
    if code == 404:
        cure = "Update the course (git pull); if HF_ENDPOINT is set, that mirror may not have the model."
        return NotThere(f"the hub answers 404: it has no {_asked(answer)}", cure)
    if code == 407:
        return DownloadError("the proxy asks for a password (407)", "Write it into HTTPS_PROXY: http://name:word@host.")
    return DownloadError(f"the hub answers {code}", "That is a problem on its side: try again later.")


def _asked(answer: httpx.Response) -> str:
    """Model, file and revision, read from the address that we asked for (not where a redirect led)."""
    first = (answer.history or [answer])[0].request.url.path
    place, _, rest = first.partition("/resolve/")
    model = "/".join(place.split("/")[-2:])  # a mirror may have a path before it
    revision, _, name = rest.partition("/")
    return f"{model} at revision {revision[:8]} ({name})"


def _no_access(answer: httpx.Response) -> DownloadError:
    code = answer.status_code
    what = "wants a login" if code == 401 else "denies access; the model may be gated"
    page = f"{offline.HUB}/{_asked(answer).partition(' at ')[0]}"
    if code == 401 and "Authorization" in (answer.history or [answer])[0].request.headers:
        cure = "Your token is not accepted: unset or renew HF_TOKEN (or the one that `hf auth login` stored)."
        return DownloadError("the hub answers 401: it does not know the token in HF_TOKEN", cure)
    cure = f"Open {page}, accept its terms if it asks, and set HF_TOKEN to a token of your account."
    return DownloadError(f"the hub answers {code}: it {what}", cure)


def _too_many(answer: httpx.Response) -> DownloadError:
    wait = retry_after(answer.headers.get("Retry-After", ""))
    asks = f" and asks to wait {wait} s" if wait else ""
    cure = (
        "Wait and run the cell again. A class behind one address shares the limit: a free token in HF_TOKEN or a "
        "shared HF_HOME helps."
    )
    problem = f"the hub answers 429, too many requests from this network address{asks}"
    return DownloadError(problem, cure, wait=wait)


def retry_after(text: str) -> int | None:
    """Seconds to wait, from a number or a date; None if the text is neither, or asks for more than a day."""
    if re.fullmatch(r"[0-9]{1,5}", text.strip()):
        return int(text)
    try:
        then = email.utils.parsedate_to_datetime(text)
        seconds = (then - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return round(seconds) if 0 < seconds < 86_400 else None
