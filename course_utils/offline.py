"""Working without a network: detect it, ask for it, enforce it."""

import os
import socket
import threading
import urllib.request
from urllib.parse import urlsplit

HUB = "https://huggingface.co"
_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


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
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def _is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    return name in {"localhost", "::1", "0.0.0.0", "::"} or name.startswith(("127.", "::ffff:127."))


def _check(sock: socket.socket, address: object) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
        raise OfflineError(address[0])


def _guarded_connect(sock: socket.socket, address: object) -> None:
    _check(sock, address)
    return _connect(sock, address)


def _guarded_connect_ex(sock: socket.socket, address: object) -> int:
    _check(sock, address)
    return _connect_ex(sock, address)


def _guarded_getaddrinfo(host: object, *args: object, **kwargs: object) -> list:
    if not _is_local(host):
        raise OfflineError(host)  # not even a name look-up leaves the machine
    return _getaddrinfo(host, *args, **kwargs)


def close_sockets() -> None:
    """From now on this process reaches only itself: loopback and unix sockets work, all else raises.

    Sockets opened by compiled code are not seen; HF_HUB_OFFLINE stops the one such user, the hub's
    download accelerator.
    """
    socket.socket.connect = _guarded_connect
    socket.socket.connect_ex = _guarded_connect_ex
    socket.getaddrinfo = _guarded_getaddrinfo


def _target() -> tuple[str, int]:
    """Host and port whose answer shows that the hub can be reached: a proxy's, where one is set."""
    address = urlsplit(hub_address())
    local = _is_local(address.hostname)
    proxy = None if local else urllib.request.getproxies().get(address.scheme)
    if proxy:
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme=address.scheme)
    return address.hostname or "", address.port or (80 if address.scheme == "http" else 443)


def network_reachable(timeout: float = 1.5) -> bool:
    """Whether the hub accepts a connection within `timeout` seconds; False at once when offline.

    Runs in a thread because a name look-up has no time limit of its own.
    """
    if is_offline():
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
