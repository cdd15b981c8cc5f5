"""What the gate measures: counted once, of bounded size, without content, and for those with the key only."""

import asyncio
import json
import math
import shutil

import pytest
from prometheus_client.parser import text_string_to_metric_families

from course_utils.serving.gate import Gate
from course_utils.serving.metrics import Metrics, quantile

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SECRET = "zzsecretzz"


def piece(text: str, **more) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps({"choices": [{"text": text}]} | more).encode() + b"\n\n"


STREAM = [
    piece("a"),
    piece(""),
    piece("b"),
    piece(SECRET),
    piece("", usage={"completion_tokens": 4}),
    b"data: [DONE]\n\n",
]
WHOLE = [json.dumps({"choices": [{"message": {"content": SECRET}}], "usage": {"completion_tokens": 7}}).encode()]


class Server:
    """Stands in for the model server: sends its parts, with a pause before each."""

    def __init__(self, parts, pause=0.0):
        self.parts, self.pause = parts, pause

    async def __call__(self, scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in self.parts:
            await asyncio.sleep(self.pause)
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def send_one(gate, path=TEXT, key="right", body=b'{"prompt": "zzsecretzz"}', method="POST", leave=None):
    """One request through the gate; the bytes and the status that came back. The client may leave after a while."""
    headers = [(b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": ("127.0.0.1", 1)}
    waiting, sent = [{"type": "http.request", "body": body}], []

    async def receive():
        if waiting:
            return waiting.pop()
        await asyncio.sleep(60 if leave is None else leave)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await gate(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def gate_before(parts, metrics=None, **more):
    pause = more.pop("pause", 0.0)
    return Gate(Server(parts, pause), "right", "m", metrics=metrics or Metrics(), **more)


def values(gate) -> dict[str, float]:
    """The metrics of a gate, as one reads them from its page: "name{label}" and the number."""
    status, body = asyncio.run(send_one(gate, "/metrics", method="GET"))
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(sample.labels.values())
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_a_stream_is_measured_from_token_to_token():
    gate = gate_before(STREAM, pause=0.03)
    asyncio.run(send_one(gate))
    seen = values(gate)
    assert seen[f"server_requests_total{{{TEXT},200}}"] == 1
    assert seen["server_tokens_total{}"] == 4  # the server's own count, not that of the pieces
    assert seen["server_first_token_seconds_count{}"] == seen["server_request_seconds_count{}"] == 1
    assert 0.03 <= seen["server_first_token_seconds_sum{}"] < seen["server_request_seconds_sum{}"]
    assert seen["server_token_seconds_count{}"] == 2 and seen["server_token_seconds_sum{}"] >= 0.08
    assert seen["server_token_seconds_bucket{0.01}"] == 0


def test_a_whole_answer_has_tokens_and_no_first_one():
    gate = gate_before(WHOLE)
    asyncio.run(send_one(gate, CHAT, body=b'{"messages": [{"role": "user", "content": "x"}]}'))
    seen = values(gate)
    assert seen["server_tokens_total{}"] == 7 and seen["server_request_seconds_count{}"] == 1
    assert seen["server_first_token_seconds_count{}"] == 0


def test_one_who_leaves_is_counted_with_the_tokens_that_were_sent():
    gate = gate_before(STREAM, pause=0.2)
    asyncio.run(send_one(gate, leave=0.3))
    seen = values(gate)
    assert seen[f"server_requests_total{{{TEXT},left}}"] == 1
    assert seen["server_tokens_total{}"] == 1 and seen["server_request_seconds_count{}"] == 0


def test_the_queue_is_seen():
    async def crowd():
        return await asyncio.gather(*[send_one(gate) for _ in range(6)])

    gate = gate_before(STREAM, pause=0.05)
    asyncio.run(crowd())
    seen = values(gate)
    assert [seen[f"server_requests_ahead_bucket{{{le}}}"] for le in ("0.0", "1.0", "2.0", "4.0", "8.0")] == [
        1,
        2,
        3,
        5,
        6,
    ]
    assert seen["server_requests_in_work{}"] == 0


def test_refused_requests_are_errors_by_status():
    gate = gate_before(STREAM)
    for key, path in (("wrong", TEXT), ("wrong", CHAT), ("right", "/" + SECRET), ("right", "/load_model")):
        asyncio.run(send_one(gate, path, key))
    asyncio.run(send_one(gate, body=b"["))
    seen = values(gate)
    counted = {name: value for name, value in seen.items() if name.startswith("server_requests_total")}
    assert counted == {
        f"server_requests_total{{{TEXT},401}}": 1,
        f"server_requests_total{{{CHAT},401}}": 1,
        "server_requests_total{other,404}": 2,
        f"server_requests_total{{{TEXT},400}}": 1,
    }


def test_no_client_makes_the_metrics_grow_or_reads_content_there():
    gate = gate_before(STREAM, per_minute=10_000)

    async def flood():
        for number in range(300):
            await send_one(gate, f"/{SECRET}{number}", key=f"{number}")
            await send_one(gate, TEXT, body=json.dumps({"prompt": SECRET, "user": str(number)}).encode())
        return await send_one(gate, "/metrics", method="GET")

    _, body = asyncio.run(flood())
    assert SECRET.encode() not in body and len(body) < 12_000


def test_only_the_key_opens_the_metrics_and_a_full_server_shows_them():
    gate = gate_before(STREAM, per_minute=2)
    assert asyncio.run(send_one(gate, "/metrics", "wrong", method="GET"))[0] == 401
    assert [asyncio.run(send_one(gate))[0] for _ in range(3)] == [200, 200, 429]
    assert values(gate)[f"server_requests_total{{{TEXT},429}}"] == 1
    assert asyncio.run(send_one(gate, "/metrics"))[0] == 404  # POST


def test_a_gate_that_does_not_measure_has_no_such_page():
    gate = Gate(Server(STREAM), "right", "m")
    assert asyncio.run(send_one(gate, "/metrics", method="GET"))[0] == 404


@pytest.mark.parametrize("junk", [b"data: {", b"\xff\xfe", b"data: [1]\n\n", b'{"choices": [{}]}', b'{"usage": null}'])
def test_an_answer_of_another_form_is_passed_on_and_counts_no_token(junk):
    gate = gate_before([junk])
    assert asyncio.run(send_one(gate)) == (200, junk)
    assert values(gate)["server_tokens_total{}"] == 0


def test_promtool_finds_nothing_to_say(tmp_path):
    import subprocess

    program = shutil.which("promtool")
    if not program:
        pytest.skip("Prometheus is not installed here")
    checked = subprocess.run([program, "check", "metrics"], input=Metrics().text(), capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("counts", "q", "value"),
    [
        ([0, 10, 10, 10], 0.5, 1.5),
        ([10, 10, 10, 10], 0.5, 0.5),
        ([2, 6, 10, 10], 0.9, 3.5),
        ([2, 6, 8, 10], 0.99, 4.0),
        ([2, 6, 10, 10], 0.2, 1.0),
        ([4, 4, 10, 10], 0.4, 1.0),
        ([4, 4, 10, 10], 1.0, 4.0),
    ],
)
def test_a_quantile_is_read_from_buckets_as_prometheus_does(counts, q, value):
    assert quantile([1, 2, 4, math.inf], counts, q) == pytest.approx(value)


def test_a_quantile_of_nothing_is_none_and_a_share_is_wanted():
    assert math.isnan(quantile([1, math.inf], [0, 0], 0.5)) and math.isnan(quantile([], [], 0.5))
    with pytest.raises(ValueError, match="from 0 to 1"):
        quantile([1, math.inf], [1, 1], 50)
