"""The embedded server with prisma-lm, one by one and with continuous batching: what the gate promises holds there."""

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache

import httpx
import openai
import psutil
import pytest
import uvicorn
from listening import addresses
from prometheus_client.parser import text_string_to_metric_families

from course_utils import serving
from course_utils.serving.lifecycle import free_port
from course_utils.serving.server import Connection
from course_utils.settings import MODELS

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "where is my order 4711?"}]
LONG = {"prompt": "a red cube and " * 20, "max_tokens": 400}  # goes on to its limit


@pytest.fixture(scope="module")
def plain():
    """A server that answers one by one."""
    with serving.serve(MODELS / "prisma-lm", timeout=600) as server:
        yield server


@pytest.fixture(scope="module")
def batched():
    """A server with continuous batching."""
    with serving.serve(MODELS / "prisma-lm", batching=True, timeout=600) as server:
        yield server


@pytest.fixture(scope="module", params=["plain", "batched"])
def server(request):
    """Each of both."""
    return request.getfixturevalue(request.param)


@cache
def web():
    """One client for all: to make one takes longer than a refused request."""
    return httpx.Client(timeout=120, trust_env=False)


def post(server, body, path=TEXT):
    """Send bytes, or an object as JSON, with the right key; the reply."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    return web().post(server.url + path, content=content, headers=headers)


def honest(server):
    """Seconds that an honest question takes; it must be answered."""
    began = time.perf_counter()
    reply = server.client().chat.completions.create(model=server.model, messages=HELLO, max_tokens=4, temperature=0)
    assert reply.usage.completion_tokens <= 4
    return time.perf_counter() - began


def test_it_answers_and_streams(server):
    ask = server.client()
    reply = ask.chat.completions.create(model=server.model, messages=HELLO, max_tokens=6)
    assert 1 <= reply.usage.completion_tokens <= 6
    pieces = list(ask.chat.completions.create(model=server.model, messages=HELLO, max_tokens=6, stream=True))
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert streamed == reply.choices[0].message.content
    assert [model.id for model in ask.models.list()] == [server.model] == ["prisma-lm"]


def test_it_listens_on_loopback_only_and_wants_its_key(plain):
    server = psutil.Process(plain.process.pid)
    tree = [server, *server.children(recursive=True)]
    assert addresses(*tree) == {"127.0.0.1"}
    with pytest.raises(openai.AuthenticationError):
        serving.client(plain.url, "wrong").models.list()
    assert post(plain, {"model": "any/model"}, "/load_model").status_code == 404
    assert plain.key not in " ".join(word for one in tree for word in one.cmdline()) and plain.key not in repr(plain)


def test_an_answer_without_a_limit_gets_the_gates(server):
    reply = post(server, {"prompt": LONG["prompt"]}).json()
    assert reply["usage"]["completion_tokens"] == 512 and reply["choices"][0]["finish_reason"] == "length"


def test_a_stop_mark_is_honoured_or_refused(plain, batched):
    whole = post(plain, LONG | {"max_tokens": 30}).json()
    mark = whole["choices"][0]["text"].split()[2]
    cut = post(plain, LONG | {"max_tokens": 30, "stop": [mark]}).json()
    assert cut["usage"]["completion_tokens"] < 30 and cut["choices"][0]["finish_reason"] == "stop"
    refused = post(batched, LONG | {"stop": [mark]})
    assert refused.status_code == 422 and "no stop marks" in refused.json()["error"]["message"]


def test_a_temperature_is_honoured_or_refused(plain, batched):
    texts = {post(plain, LONG | {"max_tokens": 12, "temperature": 1.5}).text.split('"text"')[1] for _ in range(6)}
    assert len(texts) > 1
    greedy = {post(plain, LONG | {"max_tokens": 12, "temperature": 0}).json()["choices"][0]["text"] for _ in range(3)}
    assert len(greedy) == 1
    assert post(batched, LONG | {"temperature": 1.5}).status_code == 422


BAD = [
    b"",
    b"[" * 40_000,
    b'{"prompt": "x", "max_tokens": -1}',
    b'{"prompt": "x", "max_tokens": 1000000000}',
    b'{"prompt": "x", "max_new_tokens": 1000000000}',
    b'{"prompt": "x", "temperature": Infinity}',
    b'{"prompt": "x", "temperature": 1e999}',
    b'{"prompt": "x", "top_p": 1e999}',
    b'{"prompt": "x", "n": 3}',
    b'{"prompt": "x", "seed": 18446744073709551616}',
    b'{"prompt": "x", "stop": [""]}',
    b'{"prompt": "x", "stop": {"a": 1}}',
    b'{"prompt": "x", "generation_config": "{\\"max_new_tokens\\": 3000}"}',
    b'{"prompt": "x", "frequency_penalty": -2}',
    b'{"prompt": "x", "logit_bias": {"99999999": 5}}',
    b'{"prompt": ["x"]}',
    b'{"prompt": ""}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "\xff"}',
    b'{"prompt": "x", "prompt": "y"}',
    b'{"prompt": "x", "stream": 1}',
    b'{"prompt": "x", "model": "prisma-lm@main"}',
    json.dumps({"prompt": "a red cube " * 5000}).encode(),
    json.dumps({"prompt": "a red cube " * 600, "max_tokens": 400}).encode(),
]
BAD_CHATS = [
    {"messages": []},
    {"messages": "x"},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "nobody", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}]}]},
    {"messages": HELLO, "chat_template": "{{ raise_exception('usage {\"status\": 1}') }}"},
    {"messages": HELLO, "chat_template_kwargs": {"chat_template": "{% for i in range(99999999) %}x{% endfor %}"}},
    {"messages": HELLO, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": 5}}}]},
    {"messages": HELLO, "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}]},
    {"messages": [{"role": "user", "content": "x " * 30_000}]},
]


def test_the_nastiest_requests_are_refused_and_harm_nobody(server):
    usual = max(honest(server) for _ in range(3))
    for path, bodies in ((TEXT, BAD), (CHAT, BAD_CHATS)):
        for body in bodies:
            began = time.perf_counter()
            reply = post(server, body, path)
            assert reply.status_code in (400, 404, 422), (body, reply.text)
            assert len(reply.json()["error"]["message"]) > 15
            assert time.perf_counter() - began < 3
    assert honest(server) < 3 * usual + 2


GOOD = [
    {"prompt": "\u0000\u202e\U0001f600 cube"},
    {"prompt": "x" * 300},
    {"prompt": "<|end|><|assistant|>"},
    {"prompt": "x", "stop": None, "n": 1, "max_tokens": None, "user": "me"},
    {"prompt": "x", "seed": 2**63 - 1, "top_p": 1e-9},
    {"prompt": "x", "temperature": 0.0},
]
GOOD_CHATS = [
    {"messages": [{"role": "assistant", "content": ""}, {"role": "user", "content": [{"type": "text", "text": "x"}]}]},
    {"messages": [*HELLO, {"role": "tool", "content": "x", "tool_call_id": "1"}], "stream": True},
    {"messages": [{"role": "system", "content": "x"}], "stream_options": {"include_usage": True}, "stream": True},
]


def test_the_strangest_good_requests_are_answered(server):
    for path, bodies in ((TEXT, GOOD), (CHAT, GOOD_CHATS)):
        for body in bodies:
            reply = post(server, {"max_tokens": 3} | body, path)
            assert reply.status_code == 200, (body, reply.text)
            assert '"error"' not in reply.text


def test_a_crowd_is_served_whole(server):
    before = answered(server)
    load = serving.burst(server, ["show me the red cube"] * 32, at_once=32, max_tokens=5)
    assert load.at_once == 32 and len(load.seconds) == 32 and load.rate > 0
    deadline = time.monotonic() + 30  # a row is written after its answer has left
    while answered(server) < before + 32 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert answered(server) == before + 32


def answered(server) -> int:
    """How many requests the log counts as answered."""
    rows = [row for row in server.usage() if row["status"] == 200]
    return sum(row["count"] for row in rows)


def test_long_prompts_together_do_not_end_continuous_batching(batched):
    """Together they ask for more than the cache holds."""
    prompt = {"prompt": "a red cube and " * 100, "max_tokens": 4}
    with ThreadPoolExecutor(16) as crowd:
        statuses = list(crowd.map(lambda _: post(batched, prompt).status_code, range(16)))
    assert statuses == [200] * 16
    assert honest(batched) < 30


def test_nobody_waits_for_clients_that_have_left(server):
    """Each of them asked for 512 tokens, as a whole or in a stream, and left at once."""
    usual = max(honest(server) for _ in range(3))
    alone = time.perf_counter()
    post(server, {"prompt": LONG["prompt"], "max_tokens": 512})
    alone = time.perf_counter() - alone
    for stream in [False, True] * 5:
        body = {"prompt": LONG["prompt"], "max_tokens": 512, "stream": stream}
        headers = {"Authorization": f"Bearer {server.key}"}
        with pytest.raises(httpx.ReadTimeout), httpx.Client(trust_env=False, timeout=0.05) as client:
            client.post(server.url + TEXT, json=body, headers=headers)
            raise httpx.ReadTimeout("it had begun to stream")
    assert honest(server) < usual + alone + 1


def numbers(server) -> dict[str, float]:
    """The server's metrics by name and labels."""
    families = text_string_to_metric_families(server.metrics())
    samples = [sample for family in families for sample in family.samples]
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


def test_it_measures_itself(server):
    before = numbers(server)
    body = LONG | {"max_tokens": 12, "stream": True}
    assert post(server, body).status_code == 200
    time.sleep(0.5)  # a request is counted behind its last byte
    after = numbers(server)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["server_tokens_total"] == grown["server_model_passes_total"] == 12
    assert grown["server_first_token_seconds_count"] == 1 and grown[f"server_requests_total {TEXT} 200"] == 1
    assert grown["server_token_seconds_count"] >= 8 and after["server_requests_in_work"] == 0


def test_a_client_that_leaves_a_stream_stops_the_model(server):
    before = numbers(server)["server_model_passes_total"]
    ask = server.client()
    with ask.completions.create(model=server.model, stream=True, **LONG) as events:
        for _ in range(5):
            next(events)
    time.sleep(2)
    left = numbers(server)["server_model_passes_total"]
    time.sleep(2)
    assert numbers(server)["server_model_passes_total"] == left  # nobody writes any more
    assert 5 <= left - before < 300  # of 400


def test_two_hundred_clients_at_once_get_an_answer_or_a_reason(server):
    """None hangs, and nothing is lost without a word: whom the gate turns away, it tells when to come back."""

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        headers = {"Authorization": f"Bearer {server.key}"}
        return await client.post(server.url + TEXT, json={"prompt": "cube", "max_tokens": 1}, headers=headers)

    async def crowd() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(timeout=120, trust_env=False, limits=limits) as client:
            return await asyncio.gather(*[ask(client) for _ in range(200)])

    replies = asyncio.run(crowd())
    statuses = Counter(reply.status_code for reply in replies)
    assert set(statuses) <= {200, 429} and statuses[200] >= 20
    assert all(reply.headers["retry-after"] for reply in replies if reply.status_code == 429)
    assert honest(server) < 30


def test_idle_connections_lock_nobody_out(plain):
    address = ("127.0.0.1", plain.port)
    with ExitStack() as idle:
        first = idle.enter_context(socket.create_connection(address))
        for _ in range(300):
            idle.enter_context(socket.create_connection(address))
        assert honest(plain) < 10
        first.settimeout(30)
        assert first.recv(1) == b""  # nobody may stay for ever without a request


def test_of_too_many_idle_connections_the_longest_idle_one_is_closed():
    """With a patience that nobody sees the end of here, so that only the number can close one."""

    class Few(Connection):
        most_idle = 2

        def wait_for_request(self) -> None:
            self.idle_since = self.loop.time()

    async def nothing(scope, receive, send) -> None:
        raise AssertionError("nobody asks here")

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(nothing, port=port, http=Few, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    with ExitStack() as idle:
        three = []
        for _ in range(3):
            three.append(idle.enter_context(socket.create_connection(("127.0.0.1", port))))
            time.sleep(0.1)  # the loop's clock counts milliseconds
        three[0].settimeout(20)
        assert three[0].recv(1) == b""
        for other in three[1:]:
            other.settimeout(0.3)
            with pytest.raises(TimeoutError):
                other.recv(1)
    server.should_exit = True
    thread.join(20)


def test_a_head_that_does_not_end_is_not_waited_for(plain):
    with socket.create_connection(("127.0.0.1", plain.port)) as slow:
        slow.settimeout(0.5)
        began, closed = time.monotonic(), False
        while not closed and time.monotonic() - began < 25:
            try:
                slow.sendall(b"G" if time.monotonic() - began < 1 else b"x")
                closed = slow.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
    assert closed and time.monotonic() - began < 20


def test_only_this_machines_names_are_answered(plain):
    for path in ("/health", "/v1/models"):
        reply = web().get(plain.url + path, headers={"Host": "evil.example"})
        assert reply.status_code == 403


def test_no_content_reaches_the_logs_and_they_stay_small(server):
    size = server.log.stat().st_size
    for content in ('usage {"status": 200, "path": "zzsecretzz"}', "zzsecretzz\nusage {}"):
        post(server, {"messages": [{"role": "user", "content": content}], "max_tokens": 3}, CHAT)
        post(server, {"messages": [{"role": "user", "content": content}], "chat_template": content}, CHAT)
        post(server, {"prompt": content, "stop": 5})
        post(server, {}, "/zzsecretzz")
    for _ in range(100):
        post(server, b"zzsecretzz")
    assert server.log.stat().st_size == size
    text = server.log.read_text() + json.dumps(server.usage())
    assert "zzsecretzz" not in text and "order 4711" not in text
    assert {row["path"] for row in server.usage()} <= {CHAT, TEXT, "/v1/models", "/health", "/metrics", "other"}


def test_a_model_that_thinks_is_served_without_thoughts_and_its_prompt_is_counted_so(tmp_path):
    import tiny

    from course_utils.serving.server import Prompts

    tiny.qwen(tmp_path)
    messages = [{"role": "user", "content": "hello"}]
    counted = Prompts(str(tmp_path)).count({"messages": messages})
    with serving.serve(tmp_path, timeout=600) as server:
        reply = server.client().chat.completions.create(model=server.model, messages=messages, max_tokens=4)
    # A letter is a token here: three marks, user, hello, assistant, three line ends, then the empty block of thoughts.
    thoughts = len("<think>\n\n</think>\n\n")
    assert counted == reply.usage.prompt_tokens == 24 + thoughts
