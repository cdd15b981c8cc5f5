"""The web as an agent's tool: one GET, to hosts on a list, with limits (Unit 7.2)."""

import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cache
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from course_utils.prisma.tools import Result, failed

LARGEST = 50_000  # bytes of an answer
LONGEST = 2000  # characters of an address
PATIENCE = 5.0  # seconds for all of it, redirects included
HOPS = 3  # redirects
KINDS = ("text/html", "text/plain", "application/json")
Resolve = Callable[[str, int], list[str]]


class Refused(ValueError):
    """An address or an answer that the tool does not take. The message is what the model gets to read."""


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses that a name stands for now."""
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]  # it stands for itself
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Refused(f"nobody knows {host}") from error
    return [place[4][0] for place in found]


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet: not to this machine, its network, or a cloud's inside."""
    number = ipaddress.ip_address(address.partition("%")[0])
    number = getattr(number, "ipv4_mapped", None) or number
    return number.is_global and not number.is_multicast


@cache
def _certificates() -> ssl.SSLContext:
    """Whom an https connection trusts; reading the list takes a tenth of a second."""
    return ssl.create_default_context()


class Web:
    """GETs pages of `hosts`, such as "example.org" or "example.org:8080".

    A host in `local` may have a private address; all others may not, whatever their name stands for (SSRF).
    """

    def __init__(self, hosts: Collection[str], local: Collection[str] = (), resolve: Resolve = addresses_of) -> None:
        self.hosts = {*hosts, *local}
        self.local, self.resolve = set(local), resolve

    def __call__(self, name: str, argument: str) -> Result:
        """`get[address]`. What is refused comes back as an error to read."""
        if name != "get":
            return failed(f"no tool {name}")
        try:
            return Result(self.get(argument))
        except Refused as error:
            return failed(str(error))

    def get(self, url: str) -> str:
        """The text at `url`; redirects are followed if each place on the way is allowed. Refused with a reason."""
        ends = time.monotonic() + PATIENCE
        for _ in range(HOPS + 1):
            page, further = self._one(url, ends)
            if further is None:
                return page
            try:
                url = urljoin(url, further)
            except ValueError as error:
                raise Refused("it leads on to what is no address") from error
        raise Refused(f"more than {HOPS} redirects")

    def _one(self, url: str, ends: float) -> tuple[str, str | None]:
        """The text of one answer, or where it redirects to."""
        import httpx

        parts = self.checked(url)
        headers = {"Host": parts.netloc, "Accept": ", ".join(KINDS)}
        # Asked by the address that was checked: a name that is looked up again may stand for another one by now.
        place = httpx.URL(url).copy_with(host=self.address(parts))
        options = {"headers": headers, "extensions": {"sni_hostname": parts.hostname}}
        left = max(ends - time.monotonic(), 0.01)  # seconds
        try:
            with (
                httpx.Client(trust_env=False, timeout=left, verify=_certificates()) as client,
                client.stream("GET", place, **options) as reply,
            ):
                if reply.has_redirect_location:
                    return "", reply.headers["location"]
                return _read(reply, ends), None
        except httpx.HTTPError as error:
            raise Refused(f"no answer from {parts.netloc}: {type(error).__name__}") from error

    def checked(self, url: str) -> SplitResult:
        """The parts of an address. Refused unless it is a plain one of a host on the list."""
        if len(url) > LONGEST:
            raise Refused(f"an address has at most {LONGEST} characters")
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise Refused("an address has plain letters and no spaces")
        try:
            parts = urlsplit(url)
            _ = parts.port  # ValueError if it is none
        except ValueError as error:
            raise Refused("that is no address") from error
        if parts.scheme not in ("http", "https"):
            raise Refused(f"{parts.scheme or 'an address without http'} is not fetched")
        if parts.username is not None:
            raise Refused("an address has no user name")
        if parts.netloc not in self.hosts:
            raise Refused(f"{parts.netloc or 'no host'} is not on the list")
        return parts

    def address(self, parts: SplitResult) -> str:
        """The address to ask for a host. Refused if its name stands for a place that is not public."""
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        found = self.resolve(parts.hostname, port)
        private = [address for address in found if not is_public(address)]
        if private and parts.netloc not in self.local:
            raise Refused(f"{parts.hostname} stands for {private[0]}, which is not public")
        return found[0]


def _read(reply, ends: float) -> str:
    """The text of an answer, as long as it is one, in time, and not too large."""
    kind = reply.headers.get("content-type", "").partition(";")[0]
    if kind not in KINDS:
        raise Refused(f"{kind or 'an answer without a type'} is not read")
    data = b""
    # Counted after unpacking: a small file may unpack to a very large one.
    # As they come: a piece of a fixed size is waited for, and a page that drips would never be looked at.
    for piece in reply.iter_bytes():
        data += piece
        if len(data) > LARGEST:
            raise Refused(f"an answer has at most {LARGEST} bytes")
        if time.monotonic() > ends:
            raise Refused(f"an answer comes within {PATIENCE:.0f} seconds")
    if reply.is_error:
        raise Refused(f"the answer is {reply.status_code}")
    return data.decode("utf-8", "replace")


class ShopApi:
    """The shop's tools, of which `orders` and `catalogue` ask a web service at `base`; the rest stays as it is."""

    def __init__(self, toolbox: Callable[[str, str], Result], web: Web, base: str) -> None:
        self.toolbox, self.web, self.base = toolbox, web, base

    def __call__(self, name: str, argument: str) -> Result:
        if name not in ("orders", "catalogue"):
            return self.toolbox(name, argument)
        said = self.web("get", f"{self.base}/api/{name}/{quote(argument, safe='')}")
        return Result(json.loads(said.text)["text"]) if said.ok else said
