"""The gate in front of a model server: nothing above its limits, no 5xx, nobody shut out, no content in the log."""

import asyncio
import json
import os
import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_utils.serving.gate import Gate, UsageFile, read_usage
from course_utils.serving.server import allow_files

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
# The long run: `GATE_REQUESTS=10000 pytest tests/serving/test_serving_gate.py -k generated --timeout=0`.
REQUESTS = int(os.environ.get("GATE_REQUESTS", "400"))


class Server:
    """Stands in for the model server: notes what reaches it, and answers as it is told."""

    def __init__(self, answer=b'{"choices": []}', delay=0.0, error=None):
        self.bodies, self.scopes, self.cancelled = [], [], 0
        self.answer, self.delay, self.error = answer, delay, error

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        self.bodies.append((await receive())["body"])
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.answer})


class Answer:
    """What came back: the status, the headers, the JSON."""

    def __init__(self, sent):
        start = [message for message in sent if message["type"] == "http.response.start"]
        body = b"".join(message.get("body", b"") for message in sent)
        self.status = start[0]["status"] if start else 0
        self.headers = dict(start[0].get("headers", [])) if start else {}
        self.json = json.loads(body) if body else None

    @property
    def reason(self):
        return self.json["error"]["message"]


async def send_one(
    gate, method="POST", path=CHAT, key="right", chunks=(b"{}",), client="127.0.0.1", headers=(), leave=None
):
    """One request through the gate. The client leaves after `leave` seconds, or else when it has its answer."""
    own = [(b"authorization", b"Bearer " + key.encode())] if key else []
    scope = {"type": "http", "method": method, "path": path, "headers": [*own, *headers], "client": (client, 1234)}
    waiting = [{"type": "http.request", "body": c, "more_body": i + 1 < len(chunks)} for i, c in enumerate(chunks)]
    sent, answered = [], asyncio.Event()

    async def receive():
        if waiting:
            return waiting.pop(0)
        with suppress(TimeoutError):
            await asyncio.wait_for(answered.wait(), leave)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    await gate(scope, receive, send)
    return Answer(sent)


def through(gate, content=None, **request):
    """`send_one`, with a body in JSON, from a test without a loop."""
    chunks = (json.dumps(content).encode(),) if content is not None else request.pop("chunks", (b"{}",))
    return asyncio.run(send_one(gate, chunks=chunks, **request))


def gate_before(server, **limits):
    rows = limits.pop("rows", [])
    return Gate(server, key="right", model="prisma-lm", log=rows.append, **limits)


def words(wanted):
    """A count of tokens for tests: the words of all texts."""
    texts = [wanted["prompt"]] if "prompt" in wanted else [str(m.get("content")) for m in wanted["messages"]]
    return len(" ".join(texts).split())


# --- what the server gets -------------------------------------------------------------------------------


def reached(content, path=CHAT, **limits):
    """What the server got of a request that the gate let through."""
    server = Server()
    answer = through(gate_before(server, **limits), content, path=path)
    assert answer.status == 200, answer.json
    return json.loads(server.bodies[0])


def test_a_good_request_reaches_the_server_with_what_it_asked():
    asked = HELLO | {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"], "stream": True}
    assert reached(asked) == asked | {"model": "prisma-lm"}
    text = {"prompt": "hello", "max_tokens": 5, "model": "prisma-lm"}
    assert reached(text, path=TEXT) == text


def test_an_answer_is_never_longer_than_the_limit_however_it_is_asked_for():
    assert reached(HELLO)["max_tokens"] == 512
    assert reached(HELLO | {"max_completion_tokens": 7})["max_tokens"] == 7
    assert reached(HELLO | {"max_completion_tokens": 7, "max_tokens": 9})["max_tokens"] == 7
    assert reached(HELLO | {"max_tokens": None})["max_tokens"] == 512
    assert reached({"prompt": "a b c"}, path=TEXT, count=words, window=10)["max_tokens"] == 7


def test_values_that_change_nothing_are_taken_and_not_sent_on():
    neutral = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "user": "me", "logprobs": None, "stop": None}
    neutral.pop("logprobs")
    assert reached(HELLO | neutral) == HELLO | {"max_tokens": 512, "model": "prisma-lm"}


def test_tools_and_their_results_are_sent_on():
    function = {"name": "find", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}}
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"what": "cube"}'}}
    told = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "red"}]
    asked = {"messages": HELLO["messages"] + told, "tools": [{"type": "function", "function": function}]}
    got = reached(asked)
    assert got["messages"] == asked["messages"] and got["tools"] == asked["tools"]


def test_the_server_sees_none_of_the_clients_headers():
    server = Server()
    through(gate_before(server), HELLO, headers=[(b"x-request-id", b"another's"), (b"cookie", b"c")])
    headers = dict(server.scopes[0]["headers"])
    assert set(headers) == {b"host", b"content-type", b"content-length", b"x-request-id"}
    assert headers[b"x-request-id"] != b"another's" and int(headers[b"content-length"]) == len(server.bodies[0])


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "part", "fields"),
    [
        (422, "max_tokens is 100000, and at most 512", {"max_tokens": 100_000}),
        (422, "max_tokens is 100000", {"max_completion_tokens": 100_000}),
        (422, "max_tokens", {"max_tokens": -1}),
        (422, "max_tokens", {"max_tokens": 0}),
        (422, "max_tokens", {"max_tokens": "5"}),
        (422, "max_tokens", {"max_tokens": 5.0}),
        (422, "max_tokens", {"max_tokens": True}),
        (422, "max_tokens is 1000000000", {"max_tokens": 10**9}),
        (400, "too large", {"max_tokens": 10**40}),
        (422, "'max_new_tokens' is not supported", {"max_new_tokens": 10**9}),
        (422, "'generation_config' is not supported", {"generation_config": '{"max_new_tokens": 3000}'}),
        (422, "'chat_template' is not supported", {"chat_template": "{{ raise_exception('usage {}') }}"}),
        (422, "'chat_template_kwargs' is not supported", {"chat_template_kwargs": {"chat_template": "x"}}),
        (422, "'logit_bias' is not supported", {"logit_bias": {"5": 100}}),
        (422, "'suffix' is not supported", {"suffix": "x"}),
        (422, "n: ", {"n": 3}),
        (422, "frequency_penalty", {"frequency_penalty": 1.5}),
        (422, "temperature", {"temperature": -1}),
        (422, "temperature", {"temperature": 1e-9}),
        (422, "temperature", {"temperature": 1e300}),
        (422, "top_p", {"top_p": 0}),
        (422, "seed", {"seed": 2**64 - 1}),
        (422, "stop", {"stop": 3}),
        (422, "stop", {"stop": [""]}),
        (422, "stop", {"stop": ["x"] * 5}),
        (422, "stream", {"stream": "yes"}),
        (404, "one model here, 'prisma-lm'", {"model": "prisma-lm@other"}),
        (404, "one model here", {"model": "my-adapter"}),
        (422, "messages", {"messages": "hello"}),
        (422, "messages", {"messages": []}),
        (422, "messages.0.role", {"messages": [{"role": "root", "content": "x"}]}),
        (422, "messages.0.role", {"messages": [{"content": "x"}]}),
        (422, "no content", {"messages": [{"role": "user"}]}),
        (
            422,
            "messages.0.content",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        ),
        (422, "tools", {"tools": [{"type": "function"}]}),
    ],
)
def test_a_field_that_is_wrong_is_named(status, part, fields):
    server = Server()
    answer = through(gate_before(server), HELLO | fields)
    assert (answer.status, server.bodies) == (status, [])
    assert part in answer.reason


@pytest.mark.parametrize("arguments", ["x", "[1]", '{"a": NaN}', "[" * 500])
def test_arguments_of_a_call_that_are_no_object_are_refused(arguments):
    call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
    answer = through(gate_before(Server()), {"messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert answer.status == 422 and "must be a JSON object" in answer.reason


@pytest.mark.parametrize(
    ("status", "part", "body"),
    [
        (400, "JSON object", b"not json"),
        (400, "JSON object", b""),
        (400, "JSON object", b"[1]"),
        (400, "JSON object", b"null"),
        (400, "JSON object", b'{"prompt": "x"} {}'),
        (400, "JSON object", b"\xef\xbb\xbf{}"),
        (400, "UTF-8", b'{"prompt": "\xff"}'),
        (400, "UTF-8", '{"prompt": "x"}'.encode("utf-16")),
        (400, "Infinity is no number", b'{"prompt": "x", "temperature": Infinity}'),
        (400, "NaN is no number", b'{"prompt": "x", "temperature": NaN}'),
        (400, "too large", b'{"prompt": "x", "temperature": 1e999}'),
        (400, "too large", b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}"),
        (400, "named twice", b'{"prompt": "x", "max_tokens": 1, "max_tokens": 2}'),
        (400, "deeper than 16", b"[" * 40_000),
        (400, "deeper than 16", b'{"prompt": ' + b"[" * 20 + b"]" * 20 + b"}"),
        (400, "half of a character", b'{"prompt": "\\ud800"}'),
        (422, "prompt", b"{}"),
        (422, "prompt", b'{"prompt": ""}'),
        (422, "prompt", b'{"prompt": ["a", "b"]}'),
        (422, "prompt", b'{"prompt": [1, 2]}'),
    ],
)
def test_a_body_that_is_no_strict_json_is_refused(status, part, body):
    server = Server()
    answer = through(gate_before(server), path=TEXT, chunks=[body])
    assert (answer.status, server.bodies) == (status, [])
    assert part in answer.reason


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (401, {"key": ""}),
        (401, {"key": "wrong"}),
        (401, {"headers": [(b"authorization", b"Bearer right")]}),
        (404, {"path": "/load_model"}),
        (404, {"path": "/reset"}),
        (404, {"path": "/v1/chat/completions/"}),
        (404, {"method": "GET"}),
        (413, {"chunks": [b"x" * 600] * 3}),
        (413, {"headers": [(b"content-length", b"1001")]}),
        (415, {"headers": [(b"content-encoding", b"gzip")]}),
        (403, {"headers": [(b"host", b"evil.example")]}),
        (403, {"headers": [(b"host", b"evil.example")], "method": "GET", "path": "/health"}),
        (403, {"headers": [(b"host", b"127.0.0.1.evil.example:80")]}),
        (403, {"headers": [(b"host", b"localhost"), (b"host", b"evil.example")]}),
        (403, {"headers": [(b"host", b"[::1")]}),
        (403, {"headers": [(b"host", b"\xff")]}),
    ],
)
def test_the_gate_refuses_with_a_reason(status, request_):
    server = Server()
    answer = through(gate_before(server, most_bytes=1000), **request_)
    assert (answer.status, server.bodies) == (status, [])
    assert len(answer.reason) > 20


@pytest.mark.parametrize("host", [b"127.0.0.1:8000", b"localhost", b"LOCALHOST:1", b"[::1]:9"])
def test_this_machines_own_names_are_let_through(host):
    assert through(gate_before(Server()), HELLO, headers=[(b"host", host)]).status == 200


def test_a_prompt_longer_than_the_window_is_refused_with_the_numbers():
    gate = gate_before(Server(), count=words, window=10)
    answer = through(gate, {"prompt": "word " * 12}, path=TEXT)
    assert answer.status == 422 and "12 tokens" in answer.reason and "window has 10" in answer.reason
    answer = through(gate, {"prompt": "word " * 8, "max_tokens": 3}, path=TEXT)
    assert answer.status == 422 and "room for 2 tokens" in answer.reason
    assert through(gate, {"prompt": " "}, path=TEXT).status == 422


def test_messages_that_the_template_does_not_take_are_refused():
    def count(wanted):
        raise ValueError("roles must alternate")

    answer = through(gate_before(Server(), count=count, window=10), HELLO)
    assert answer.status == 422 and "roles must alternate" in answer.reason


def test_what_batching_would_ignore_is_refused():
    gate = gate_before(Server(), batching=True)
    assert "no stop marks" in through(gate, HELLO | {"stop": "x"}).reason
    assert "likeliest token" in through(gate, HELLO | {"temperature": 1.0}).reason
    assert through(gate, HELLO | {"temperature": 0}).status == 200


# --- rates, crowds, patience ----------------------------------------------------------------------------


def test_the_gate_limits_the_rate_of_each_address_and_says_when_to_come_back(monkeypatch):
    gate = gate_before(Server(), per_minute=3)
    answers = [through(gate, HELLO) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert 55 <= int(answers[-1].headers[b"retry-after"]) <= 61
    assert through(gate, HELLO, client="127.0.0.2").status == 200
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert through(gate, HELLO).status == 200


def test_junk_takes_nothing_from_the_quota():
    gate = gate_before(Server(), per_minute=3)
    junk = [{"chunks": [b"["]}, {"key": "wrong"}, {"path": "/x"}, {"chunks": [b'{"n": 3}']}]
    for request in junk * 20:
        assert through(gate, **request).status in (400, 401, 404, 422)
    assert [through(gate, HELLO).status for _ in range(4)] == [200, 200, 200, 429]


def test_only_so_many_requests_are_in_work_at_once():
    async def crowd():
        gate = gate_before(Server(delay=0.1), at_once=2)
        body = (json.dumps(HELLO).encode(),)
        answers = await asyncio.gather(*[send_one(gate, chunks=body) for _ in range(5)])
        return answers, await send_one(gate, chunks=body)

    answers, after = asyncio.run(crowd())
    assert sorted(answer.status for answer in answers) == [200, 200, 429, 429, 429]
    assert [a.headers[b"retry-after"] for a in answers if a.status == 429] == [b"1"] * 3
    assert after.status == 200


def test_a_client_that_leaves_frees_the_server():
    server = Server(delay=30)
    gate = gate_before(server, at_once=1)
    started = time.perf_counter()
    through(gate, HELLO, leave=0.05)
    assert time.perf_counter() - started < 2 and server.cancelled == 1
    server.delay = 0
    assert through(gate, HELLO).status == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_request():
    async def leave():
        async def receive():
            return messages.pop(0)

        async def send(message):
            raise AssertionError("nobody is there")

        messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
        headers = [(b"authorization", b"Bearer right")]
        await gate({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive, send)

    server, rows = Server(), []
    gate = gate_before(server, rows=rows)
    asyncio.run(leave())
    assert server.bodies == [] and rows[0]["left"] and rows[0]["status"] == 0


def test_a_body_that_does_not_arrive_and_an_answer_that_does_not_come_end():
    async def slow():
        async def receive():
            await asyncio.sleep(5)

        async def send(message):
            sent.append(message)

        sent = []
        headers = [(b"authorization", b"Bearer right")]
        await gate({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive, send)
        return Answer(sent)

    server = Server(delay=30)
    gate = gate_before(server, body_seconds=0.05, answer_seconds=0.05)
    assert asyncio.run(slow()).status == 408
    answer = through(gate, HELLO)
    assert answer.status == 503 and b"retry-after" in answer.headers and server.cancelled == 1


def test_a_failure_of_the_server_is_an_answer_and_keeps_no_content():
    rows, told = [], []
    server = Server(error=RuntimeError("the secret question"))
    gate = Gate(server, "right", "prisma-lm", log=rows.append, report=told.append)
    answer = through(gate, HELLO)
    assert answer.status == 500 and "RuntimeError" in answer.reason and "secret" not in answer.reason
    assert rows[0]["error"] == "RuntimeError" and "secret" not in json.dumps(rows)
    assert told == [server.error]


def test_other_protocols_are_closed_and_the_servers_own_start_passes():
    async def one(kind):
        async def send(message):
            sent.append(message)

        sent = []
        await gate({"type": kind, "path": "/"}, receive, send)
        return sent

    async def receive():
        return {"body": b""}

    server = Server()
    gate = gate_before(server)
    assert asyncio.run(one("websocket")) == [{"type": "websocket.close", "code": 1008}]
    assert server.bodies == []
    asyncio.run(one("lifespan"))
    assert len(server.bodies) == 1


def test_the_gate_names_its_one_model_and_health_needs_no_key():
    answer = through(gate_before(Server()), method="GET", path="/v1/models")
    assert answer.status == 200 and [row["id"] for row in answer.json["data"]] == ["prisma-lm"]
    assert through(gate_before(Server()), method="GET", path="/health", key="").status == 200


def test_the_server_may_open_as_many_files_as_the_system_grants(monkeypatch):
    resource = pytest.importorskip("resource")
    limits = [(256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append(pair))
    assert allow_files(1024) == 1024 and limits[-1] == (1024, 4096)
    assert allow_files(1024) == 1024 and len(limits) == 2  # nothing is changed that is enough
    limits.append((256, 300))
    assert allow_files(1024) == 300


# --- the log --------------------------------------------------------------------------------------------


def test_the_log_counts_and_keeps_no_content():
    rows, server = [], Server(answer=b'{"a": "my secret answer"}')
    gate = gate_before(server, rows=rows)
    body = b'{"prompt": "my secret"}'
    through(gate, path=TEXT, chunks=[body])
    through(gate, path=TEXT, chunks=[body], key="wrong")
    through(gate, path="/my secret", chunks=[body])
    assert [(row["path"], row["status"]) for row in rows] == [(TEXT, 200), (TEXT, 401), ("other", 404)]
    assert rows[0]["bytes_in"] == 23 and rows[0]["bytes_out"] == 25
    assert "secret" not in json.dumps(rows) and "right" not in json.dumps(rows)


def test_a_flood_of_refused_requests_makes_a_row_a_second(tmp_path):
    async def flood():
        gate = Gate(Server(), "right", "prisma-lm", log=UsageFile(path))
        for _ in range(500):
            await send_one(gate, chunks=(b"junk",))
        await send_one(gate, chunks=(json.dumps(HELLO).encode(),))
        await asyncio.sleep(1.1)

    path = tmp_path / "usage.jsonl"
    asyncio.run(flood())
    rows = read_usage(path)
    assert sum(row["count"] for row in rows if row["status"] == 400) == 500
    assert len(rows) <= 6 and [row["count"] for row in rows if row["status"] == 200] == [1]


def test_the_usage_file_is_bounded_and_a_half_written_row_is_left_out(tmp_path):
    path = tmp_path / "usage.jsonl"
    log = UsageFile(path, most_bytes=2000)
    for number in range(500):
        log({"path": CHAT, "status": 200, "number": number})
    assert sum(part.stat().st_size for part in tmp_path.iterdir()) < 2200
    rows = read_usage(path)
    assert rows[-1]["number"] == 499 and len(rows) > 10
    with path.open("a") as file:
        file.write('{"path": "/v1/ch')
    assert read_usage(path) == rows


# --- anything at all ------------------------------------------------------------------------------------

SECRET = "zzsecretzz"
TEXTS = st.one_of(st.just(SECRET), st.text(max_size=20), st.just("word " * 100), st.just("[" * 500), st.just("\ud800"))
NUMBERS = st.one_of(
    st.integers(-3, 700), st.sampled_from([10**9, 2**63, -(2**63), 10**30, 0.5, 1.5, -0.1, 1e308, 1e-300])
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.floats())
ANYTHING = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "input_text"]), "text": TEXTS})
CALLS = st.fixed_dictionaries({"type": st.just("function"), "function": st.dictionaries(TEXTS, TEXTS, max_size=2)})
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", "root"]),
        "content": TEXTS | st.lists(PARTS, max_size=2),
    },
    optional={"name": TEXTS, "tool_calls": st.lists(CALLS, max_size=2) | ANYTHING, "tool_call_id": TEXTS},
)
NAMES = (
    "model messages prompt max_tokens max_completion_tokens temperature top_p seed stop stream n frequency_penalty "
    "presence_penalty stream_options user tools tool_choice generation_config chat_template chat_template_kwargs "
    "logit_bias logits_processor suffix best_of echo logprobs adapter max_new_tokens response_format"
).split()
HONEST = {
    "messages": st.lists(MESSAGES, max_size=3),
    "prompt": TEXTS,
    "max_tokens": NUMBERS,
    "model": st.sampled_from(["prisma-lm", "other", ""]),
    "stream": st.booleans(),
    "temperature": NUMBERS,
    "stop": TEXTS | st.lists(TEXTS, max_size=5),
}
SPOILERS = st.sampled_from(
    [
        lambda body: body,
        lambda body: body[:-1],
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: body + body,
        lambda body: body.replace(b'"', b"\xff", 1),
        lambda body: body.decode().encode("utf-16"),
        lambda body: b'{"max_tokens": 600, ' + body[1:],
        lambda body: body.replace(b"}", b', "n": 1e999}', 1),
        lambda body: b'{"prompt": ' + b"[" * 5000,
        lambda body: body + b" " * 3000,
    ]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            (b"host", b"127.0.0.1"),
            (b"host", b"evil.example"),
            (b"content-encoding", b"gzip"),
            (b"content-length", b"9" * 50),
            (b"content-length", b"-1"),
            (b"content-type", b"text/plain"),
            (b"x-request-id", b"1"),
            (b"authorization", b"Bearer right"),
            (b"transfer-encoding", b"chunked"),
        ]
    ),
    max_size=2,
)
ALLOWED = {"model", "messages", "prompt", "tools", "max_tokens", "temperature", "top_p", "seed", "stop", "stream"}


@st.composite
def requests(draw):
    """A request of any kind, more often one that comes far."""
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
    fields = {name: draw(HONEST[name] if name in HONEST and draw(st.booleans()) else ANYTHING) for name in names}
    path = draw(st.sampled_from([CHAT, TEXT, CHAT, TEXT, "/v1/models", "/health", "/load_model", "/" + SECRET]))
    if draw(st.booleans()):  # near to a good one
        good = HELLO if path == CHAT else {"prompt": SECRET}
        fields = good | {name: fields[name] for name in list(fields)[:1]}
    body = draw(SPOILERS)(json.dumps(fields).encode()) if draw(st.booleans()) else json.dumps(fields).encode()
    body = draw(st.binary(max_size=50)) if draw(st.integers(0, 9)) == 0 else body
    cut = draw(st.integers(0, len(body)))
    request = {"path": path, "chunks": (body[:cut], body[cut:]), "headers": draw(HEADERS)}
    request["method"] = draw(st.sampled_from(["POST", "POST", "POST", "GET", "PUT"]))
    request["key"] = draw(st.sampled_from(["right", "right", "right", "wrong", ""]))
    request["leave"] = draw(st.sampled_from([None, None, 0.0]))
    return request


@pytest.fixture(scope="module")
def loop():
    with asyncio.Runner() as runner:
        yield runner


@settings(
    max_examples=REQUESTS, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)
@given(request=requests())
def test_generated_requests_stay_below_the_limits_and_harm_nobody(loop, request):
    rows, server = [], Server()
    gate = gate_before(server, rows=rows, count=words, window=80, most_bytes=2500, most_tokens=50)
    answer = loop.run(asyncio.wait_for(send_one(gate, **request), 5))
    assert answer.status in (0, 200, 400, 401, 403, 404, 408, 413, 415, 422)
    if answer.status >= 400:
        assert len(answer.reason) > 15
    for body in filter(None, server.bodies):
        got = json.loads(body)
        assert set(got) <= ALLOWED and got["model"] == "prisma-lm"
        assert type(got["max_tokens"]) is int and 1 <= got["max_tokens"] <= 50
        assert words(got) + got["max_tokens"] <= 80
    row = rows[0]
    assert set(row) <= {"path", "ms", "bytes_in", "bytes_out", "status", "left"}
    assert row["path"] in (CHAT, TEXT, "/v1/models", "/health", "other")
    started = time.perf_counter()
    assert loop.run(send_one(gate, chunks=(json.dumps(HELLO).encode(),))).status == 200
    assert time.perf_counter() - started < 0.5
