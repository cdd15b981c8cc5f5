import asyncio
import socket
import threading
import time
import urllib.request

import pytest

from course_utils.models import offline

OUTSIDE = "192.0.2.1"  # reserved for documentation (RFC 5737): nobody is there


@pytest.fixture
def online(monkeypatch):
    """As on a machine where nobody asked to be offline; conftest's closed sockets stay closed."""
    for variable in ("HF_HUB_OFFLINE", "COURSE_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("way", ["connect", "connect_ex", "create_connection", "urllib", "asyncio"])
def test_the_outside_is_refused_with_a_cure(way):
    with pytest.raises(OSError, match="unset COURSE_OFFLINE"), socket.socket() as sock:
        if way == "create_connection":
            socket.create_connection((OUTSIDE, 80), timeout=1)
        elif way == "urllib":
            urllib.request.urlopen("http://example.com", timeout=1)
        elif way == "asyncio":
            asyncio.run(asyncio.open_connection(OUTSIDE, 80))
        else:
            getattr(sock, way)((OUTSIDE, 80))


def test_names_are_not_even_looked_up():
    with pytest.raises(offline.OfflineError, match="example.com"):
        socket.getaddrinfo("example.com", 80)


@pytest.mark.parametrize("name", ["gethostbyname", "gethostbyname_ex", "gethostbyaddr"])
@pytest.mark.parametrize(
    "host", ["example.com", "127.evil.example", "::ffff:127.evil.example", OUTSIDE, b"example.com"]
)
def test_no_way_of_looking_a_name_up_is_left_open(name, host):
    with pytest.raises(offline.OfflineError, match="unset COURSE_OFFLINE"):
        getattr(socket, name)(host)


def test_no_address_is_looked_up_either():
    with pytest.raises(offline.OfflineError, match=OUTSIDE):
        socket.getnameinfo((OUTSIDE, 80), 0)


@pytest.mark.parametrize(
    "host", ["127.evil.example", "127.0.0.1.evil.example", "::ffff:127.evil.example", "localhost.evil.example"]
)
def test_a_name_that_begins_like_loopback_is_not_loopback(host):
    with pytest.raises(offline.OfflineError, match="evil"):
        socket.getaddrinfo(host, 80)
    with pytest.raises(offline.OfflineError, match="evil"), socket.socket() as sock:
        sock.connect((host, 80))


@pytest.mark.parametrize("way", ["sendto", "sendto with flags", "sendmsg", "connect", "connect_ex", "asyncio"])
def test_datagrams_stay_here(way):
    if way == "sendmsg" and not hasattr(socket.socket, "sendmsg"):
        pytest.skip("this system has no sendmsg")
    send = {
        "sendto": lambda sock: sock.sendto(b"x", (OUTSIDE, 53)),
        "sendto with flags": lambda sock: sock.sendto(b"x", 0, (OUTSIDE, 53)),
        "sendmsg": lambda sock: sock.sendmsg([b"x"], [], 0, (OUTSIDE, 53)),
        "connect": lambda sock: sock.connect((OUTSIDE, 53)),
        "connect_ex": lambda sock: sock.connect_ex((OUTSIDE, 53)),
        "asyncio": lambda sock: asyncio.run(_endpoint()),
    }
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="unset COURSE_OFFLINE"):
        send[way](sock)


async def _endpoint() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(OUTSIDE, 53))


def test_datagrams_on_loopback_work():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        there.bind(("127.0.0.1", 0))
        there.settimeout(2)
        here.sendto(b"one", there.getsockname())
        here.sendto(b"two", 0, there.getsockname())
        here.connect(there.getsockname())
        if hasattr(here, "sendmsg"):
            here.sendmsg((b"thr", b"ee"))
        assert [there.recv(9) for _ in range(3 if hasattr(here, "sendmsg") else 2)] == [b"one", b"two", b"three"][:3]


def test_this_machine_is_found_by_name():
    assert socket.gethostbyname("localhost").startswith("127.")
    assert socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == ("127.0.0.1", "80")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_works(listener, host):
    with socket.create_connection((host, listener), timeout=2) as sock:
        assert sock.getpeername()[1] == listener


def test_unix_sockets_work():
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"hello")
        assert right.recv(5) == b"hello"


def test_unix_path_sockets_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # keeps the path within the 100 bytes that unix allows
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        client.connect("s")


@pytest.mark.parametrize("variable", ["COURSE_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("value, expected", [("1", True), ("true", True), ("0", False), ("", False)])
def test_is_offline(online, monkeypatch, variable, value, expected):
    monkeypatch.setenv(variable, value)
    assert offline.is_offline() is expected


def test_network_is_not_probed_when_offline(online, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("tried to connect"))
    assert offline.network_reachable() is False


def test_network_probe_asks_the_endpoint(online, monkeypatch, listener):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener}/mirror/")
    assert offline.network_reachable() is True
    assert offline.hub_address().endswith("/mirror")


def test_network_probe_sees_a_closed_port(online, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert offline.network_reachable() is False


def test_network_probe_goes_through_the_proxy(online, monkeypatch, listener):
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener}")
    assert offline.network_reachable() is True  # the hub itself is out of reach here


def test_network_probe_keeps_its_time_limit(online, monkeypatch):
    released = threading.Event()

    def hang(*_, **__):
        released.wait(30)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.monotonic()
    assert offline.network_reachable(timeout=0.2) is False
    assert time.monotonic() - start < 2
    released.set()


@pytest.mark.parametrize("text", ["http://127.0.0.1:notaport", "nonsense", "ftp://127.0.0.1", "http://[::1"])
def test_a_malformed_endpoint_is_no_network(online, monkeypatch, text):
    monkeypatch.setenv("HF_ENDPOINT", text)
    assert offline.network_reachable() is False
    assert repr(text) in offline.endpoint_problem() and "https://host" in offline.endpoint_problem()


@pytest.mark.parametrize(
    "text", ["", "https://huggingface.co", "http://127.0.0.1:8080/hub/", " https://mirror.example "]
)
def test_an_address_is_one(online, monkeypatch, text):
    monkeypatch.setenv("HF_ENDPOINT", text)
    assert offline.endpoint_problem() is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://mirror.example/x/", "https://mirror.example/x"),
        ("https://ann:s3@cret@mirror.example/x", "https://mirror.example/x"),
        ("ann:s3cret@mirror.example", "mirror.example"),
    ],
)
def test_a_mirrors_password_is_never_printed(monkeypatch, text, shown):
    monkeypatch.setenv("HF_ENDPOINT", text)
    assert offline.hub_name() == shown
    assert "s3" not in str(offline.endpoint_problem())


def test_network_probe_goes_through_a_socks_proxy(online, monkeypatch, listener):
    monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{listener}")
    assert offline.network_reachable() is True
