"""A server that breaks requests on purpose: each fault looks to a client like the real thing."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from course_utils import serving
from course_utils.serving import faults
from course_utils.serving.faults import FAULTS, PAGE, Faulty

SAID = b"data: one\n\ndata: two\n\ndata: [DONE]\n\n"


class Healthy(BaseHTTPRequestHandler):
    """Answers every request with SAID in chunks, and notes what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.bodies.append(self.rfile.read(length))
        self.server.heads.append(dict(self.headers))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for part in (SAID[:11], SAID[11:]):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def healthy():
    """A server that never fails."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        server.bodies, server.heads = [], []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url_of(server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def ask(url: str, timeout: float = 10) -> bytes:
    """What a client gets for one request."""
    return httpx.post(url + "/v1/completions", content=b'{"prompt": "x"}', timeout=timeout, trust_env=False).content


def test_what_is_not_broken_passes_unchanged(healthy):
    with Faulty(url_of(healthy), "dead", share=0) as faulty:
        assert [ask(faulty.url) for _ in range(3)] == [SAID] * 3
        assert faulty.broken == 0
    assert healthy.bodies[-1] == b'{"prompt": "x"}'
    assert healthy.heads[-1]["Connection"] == "close"


def test_a_dead_server_closes_the_connection(healthy):
    with Faulty(url_of(healthy), "dead", share=1) as faulty, pytest.raises(httpx.TransportError):
        ask(faulty.url)


def test_garbage_comes_with_a_good_status(healthy):
    with Faulty(url_of(healthy), "garbage", share=1) as faulty:
        assert ask(faulty.url) == PAGE


def test_a_cut_answer_ends_in_its_middle(healthy):
    with Faulty(url_of(healthy), "cut", share=1) as faulty, pytest.raises(httpx.RemoteProtocolError):
        ask(faulty.url)


def test_a_slow_answer_outlives_a_timeout_between_two_bytes(healthy, monkeypatch):
    """Each byte comes in time, so that the client's own timeout never sees anything wrong."""
    monkeypatch.setattr(faults, "DRIP", 0.02)  # the head alone has more than a hundred bytes
    began = time.monotonic()
    with Faulty(url_of(healthy), "slow", share=1) as faulty, httpx.Client(timeout=1.5, trust_env=False) as client:
        with client.stream("POST", faulty.url + "/v1/completions", content=b"{}") as reply:
            assert reply.status_code == 200
        assert time.monotonic() - began > 1.8


def test_the_seed_decides_which_requests_are_broken(healthy):
    def pattern(seed: int) -> list[bool]:
        with Faulty(url_of(healthy), "garbage", share=0.5, seed=seed) as faulty:
            return [ask(faulty.url) == PAGE for _ in range(12)]

    assert pattern(1) == pattern(1) != pattern(2)
    assert 2 <= sum(pattern(1)) <= 10


def test_nothing_is_left_behind(healthy):
    before = threading.active_count()
    with Faulty(url_of(healthy), "slow", share=1) as faulty:
        port = httpx.URL(faulty.url).port
        assert not serving.port_is_free(port)
        with pytest.raises(httpx.ReadTimeout):
            ask(faulty.url, timeout=0.01)
    assert serving.port_is_free(port)
    assert threading.active_count() <= before + 1  # the stand-in may still end a thread of its own


def test_a_model_server_that_is_gone_is_a_closed_connection():
    gone = f"http://127.0.0.1:{serving.free_port()}"
    with Faulty(gone, "slow", share=0) as faulty, pytest.raises(httpx.TransportError):
        ask(faulty.url)


@pytest.mark.parametrize(("fault", "share", "word"), [("fire", 0.5, "slow, dead"), ("cut", 1.5, "from 0 to 1")])
def test_what_is_no_fault_is_refused(fault, share, word):
    with pytest.raises(ValueError, match=word):
        Faulty("http://127.0.0.1:1", fault, share)


def test_every_fault_is_described():
    assert set(FAULTS) == {"slow", "dead", "garbage", "cut"}
