"""Several replicas behind one address: a killed one loses requests without a second try, and none with it."""

import asyncio
import importlib.util
import inspect
import time

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from course_utils import serving
from course_utils.models import bundled
from course_utils.serving import balancer, haproxy, lifecycle
from course_utils.workshop import notebooks

LAB = "7.4_lab_replicas"
KEY = "a-shared-key-for-tests"


def stand_in(name: str, seen: list[dict], seconds: float = 0.0) -> FastAPI:
    """A model server that says who it is."""
    app = FastAPI()

    @app.post("/v1/completions")
    async def complete(request: Request) -> dict:
        seen.append({"headers": dict(request.headers), "body": await request.json(), "by": name})
        await asyncio.sleep(seconds)
        return {"by": name}

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok"}

    return app


def dead() -> str:
    """An address where nobody listens."""
    return f"http://127.0.0.1:{lifecycle.free_port()}"


def test_the_least_busy_replica_is_chosen_and_a_failed_one_rests() -> None:
    busy, idle = balancer.Replica("a", in_work=2), balancer.Replica("b", in_work=1)
    assert balancer.choose([busy, idle]) is idle
    idle.rests_until = time.monotonic() + 60
    assert balancer.choose([busy, idle]) is busy
    busy.rests_until = time.monotonic() + 60
    assert balancer.choose([busy, idle]) is idle  # better than nobody


@pytest.mark.parametrize(("tries", "status"), [(1, 502), (2, 200)])
def test_a_second_try_saves_the_request_with_its_body_and_key(tries: int, status: int) -> None:
    seen = []
    with balancer.in_thread(stand_in("alive", seen)) as alive:
        replicas = [balancer.Replica(dead()), balancer.Replica(alive)]
        with balancer.in_thread(balancer.application(replicas, tries)) as url:
            headers = {"Authorization": "Bearer k", "Cookie": "private"}
            sent = {"prompt": "hello", "max_tokens": 3}
            got = httpx.post(f"{url}/v1/completions", json=sent, headers=headers, trust_env=False)
            again = httpx.post(f"{url}/v1/completions", json=sent, headers=headers, trust_env=False)
    assert got.status_code == status
    assert again.json() == {"by": "alive"}  # the dead one rests
    assert {one["body"]["prompt"] for one in seen} == {"hello"}
    assert all(one["headers"]["authorization"] == "Bearer k" for one in seen)
    assert not any("cookie" in one["headers"] for one in seen)
    assert [replica.in_work for replica in replicas] == [0, 0]


def test_an_answer_keeps_its_kind_and_how_long_to_wait() -> None:
    full = FastAPI()
    full.add_api_route("/", lambda: Response("later", 429, {"retry-after": "7", "x-inner": "secret"}))
    with balancer.in_thread(full) as url, balancer.in_thread(balancer.application([balancer.Replica(url)], 1)) as front:
        got = httpx.get(front, trust_env=False)
    assert (got.status_code, got.text, got.headers["retry-after"]) == (429, "later", "7")
    assert "x-inner" not in got.headers


def test_arrivals_need_a_time_for_each_prompt() -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 times"):
        serving.arrivals("http://127.0.0.1:9", "k", ["a", "b"], [0.0])


def test_a_thread_gives_its_port_back() -> None:
    with balancer.in_thread(stand_in("one", [])) as url:
        port = int(url.rsplit(":", 1)[1])
        assert not serving.port_is_free(port)
    assert serving.port_is_free(port)


def test_a_crowd_and_arrivals_count_what_is_lost() -> None:
    with balancer.in_thread(stand_in("one", [], seconds=0.05)) as url:
        counted = []
        outcomes = serving.send(url, "k", ["a", "b", "c"], 2, answered=counted.append)
        spread = serving.arrivals(url, "k", ["a", "b"], [0.0, 0.3])
    assert counted == [1, 2, 3] and not any(one.is_lost for one in outcomes)
    assert all(one.seconds >= 0.05 for one in outcomes)
    assert spread[1].ended > 0.3 > spread[0].seconds
    gone = serving.send(url, "k", ["a"], 1)
    assert gone[0].status == 0 and gone[0].is_lost


def test_haproxy_is_told_to_retry_a_post_that_it_has_kept() -> None:
    text = haproxy.configuration(9000, [9001, 9002], retry=True)
    for line in ("retry-on all-retryable-errors", "option http-buffer-request", "option redispatch 1"):
        assert line in text
    assert "bind 127.0.0.1:9000" in text and "127.0.0.1:9002" in text
    without = haproxy.configuration(9000, [9001], retry=False)
    assert "retries 0" in without and "retry-on" not in without


def test_a_missing_haproxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "PLACES", ())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(serving.ServerError, match="haproxy"), haproxy.running([9001], retry=True):
        pass


@pytest.mark.skipif(haproxy.find() is None, reason="HAProxy is not on this machine")
def test_haproxy_asks_the_other_replica_and_leaves_nothing() -> None:
    seen = []
    with balancer.in_thread(stand_in("alive", seen)) as alive:
        ports = [int(url.rsplit(":", 1)[1]) for url in (dead(), alive)]
        with haproxy.running(ports, retry=True) as url:
            outcomes = serving.send(url, "k", ["a"] * 8, 4)
        assert serving.port_is_free(int(url.rsplit(":", 1)[1]))
    assert not any(one.is_lost for one in outcomes) and len(seen) == 8


@pytest.mark.parametrize("key", ["short", "with a space in it", "x" * 20 + "\n", "schlüssel-aus-köln"])
def test_a_key_that_cannot_be_one_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        serving.start(bundled.folder("prisma-lm"), key=key)


def test_two_servers_share_a_key_and_a_crash_is_survived() -> None:
    """The whole lesson once: real servers, one killed in the middle of its work, nothing lost, nothing left."""
    folder = bundled.folder("prisma-lm")
    servers = [serving.start(folder, key=KEY) for _ in range(2)]
    try:
        replicas = [balancer.Replica(server.url) for server in servers]
        with balancer.in_thread(balancer.application(replicas, tries=2)) as url:

            def kill(count: int) -> None:
                if count == 6:
                    servers[0].crash()

            outcomes = serving.send(url, KEY, ["hello"] * 24, 4, answered=kill)
        assert [one.status for one in outcomes] == [200] * 24
        assert serving.port_is_free(servers[0].port) and not serving.port_is_free(servers[1].port)
        assert "key" not in repr(servers[0])
    finally:
        serving.stop_all()
    assert all(serving.port_is_free(server.port) for server in servers)
    assert not any(server.log.parent.exists() for server in servers)


def test_the_notebook_shows_what_the_package_runs() -> None:
    (lab,) = [path for path in notebooks.built() if path.stem == LAB]
    outputs = [output for cell in notebooks.load(lab).cells for output in cell.get("outputs", [])]
    shown = "".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    for part in (balancer.Replica, balancer.choose, balancer.pass_on):
        assert inspect.getsource(part).rstrip() in shown
