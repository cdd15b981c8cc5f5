"""Working without a network: detect it, ask for it, enforce it."""

import ipaddress
import os
import socket
import threading
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

HUB = "https://huggingface.co"
LOOKUPS = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr")  # all take the host first


class OfflineError(ConnectionError):
    """A connection beyond this machine was tried while the course runs offline."""

    def __init__(self, host: object):
        super().__init__(
            f"The course runs offline, so it does not connect to {host}. To allow the network, "
            "unset COURSE_OFFLINE and restart the kernel."
        )


def is_on(variable: str) -> bool:
    """Whether an environment variable is set to 1, on, yes or true."""
    return os.environ.get(variable, "").strip().lower() in {"1", "on", "yes", "true"}


def is_offline() -> bool:
    """Whether someone asked for no network use at all (COURSE_OFFLINE or HF_HUB_OFFLINE)."""
    return is_on("COURSE_OFFLINE") or is_on("HF_HUB_OFFLINE")


def hub_address() -> str:
    """Where models are downloaded from; HF_ENDPOINT names a mirror."""
    return (os.environ.get("HF_ENDPOINT", "").strip() or HUB).rstrip("/")


def hub_name() -> str:
    """The hub's address as it is printed: a mirror's user name and password are left out."""
    before, _, rest = hub_address().rpartition("@")
    scheme, mark, _ = before.partition("://")
    return f"{scheme}://{rest}" if mark else rest


def endpoint_problem() -> str | None:
    """What is wrong with the address in HF_ENDPOINT; None if it is one."""
    text = hub_address()
    try:
        address = urlsplit(text)
        complete = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:
        complete = False
    plain = text.isprintable() and not set(text) & set(" ?#")
    return (
        None if complete and plain else f"HF_ENDPOINT is {hub_name()!r}, which is no address of the form https://host"
    )


def is_local_hub() -> bool:
    """Whether the hub's address is on this machine: no proxy is asked for it."""
    return _is_local(urlsplit(hub_address()).hostname)


def _is_local(host: object) -> bool:
    """Whether a host is this machine. A name that only begins like a loopback address is not."""
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "localhost")
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _check(sock: socket.socket, address: object) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
        raise OfflineError(address[0])


def _guarded_send(name: str, real: Callable) -> Callable:
    """One of a socket's methods that take an address: as the last argument, or as the fourth of `sendmsg`."""

    def send(sock: socket.socket, *args: object) -> object:
        address = args[3:] if name == "sendmsg" else args[-1:]
        if address and isinstance(address[0], tuple):
            _check(sock, address[0])
        return real(sock, *args)

    return send


def _guarded_lookup(real: Callable) -> Callable:
    """A name look-up that does not leave the machine, not even for the name server."""

    def look_up(host: object, *args: object, **kwargs: object) -> object:
        name = host[0] if isinstance(host, tuple) else host  # getnameinfo takes address and port
        if not _is_local(name):
            raise OfflineError(name)
        return real(host, *args, **kwargs)

    return look_up


_closed = False


def close_sockets() -> None:
    """From now on this process reaches only itself: loopback and unix sockets work, all else raises.

    Sockets opened by compiled code are not seen; HF_HUB_OFFLINE stops the one such user, the hub's
    download accelerator.
    """
    global _closed
    if _closed:
        return
    for name in ("connect", "connect_ex", "sendto", "sendmsg"):
        if hasattr(socket.socket, name):  # Windows has no sendmsg
            setattr(socket.socket, name, _guarded_send(name, getattr(socket.socket, name)))
    for name in (*LOOKUPS, "getnameinfo"):
        setattr(socket, name, _guarded_lookup(getattr(socket, name)))
    _closed = True


def _target() -> tuple[str, int]:
    """Host and port whose answer shows that the hub can be reached: a proxy's, where one is set."""
    address = urlsplit(hub_address())
    proxies = {} if _is_local(address.hostname) else urllib.request.getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy:
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme=address.scheme)
    usual = {"http": 80, "socks5": 1080, "socks5h": 1080}.get(address.scheme, 443)
    return address.hostname or "", address.port or usual


def network_reachable(timeout: float = 1.5) -> bool:
    """Whether the hub accepts a connection within `timeout` seconds; False at once when offline.

    Runs in a thread because a name look-up has no time limit of its own.
    """
    if is_offline() or endpoint_problem():
        return False
    answer = []

    def knock() -> None:
        try:
            with socket.create_connection(_target(), timeout=timeout):
                answer.append(True)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answer)
