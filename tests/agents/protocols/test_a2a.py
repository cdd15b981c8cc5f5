"""An agent over A2A: its card, its tasks, who may ask; here the replies are a function's, and the wire is real."""

import httpx
import pytest

from course_utils.agents.protocols import a2a_agents
from course_utils.serving import balancer

KEY = "a-key-for-this-test-only"


class Late:
    """An application that is put in once its address is known."""

    app = None

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"  # no lifespan
        await self.app(scope, receive, send)


def echo(asked: str) -> str:
    if asked == "break":
        raise RuntimeError("no model")
    return asked.upper()


@pytest.fixture(scope="module")
def address():
    late = Late()
    with balancer.in_thread(late) as url:
        late.app = a2a_agents.application(echo, f"{url}/", KEY)
        yield url


def test_a_message_becomes_a_task_that_is_completed(address):
    with a2a_agents.connect(address, KEY) as send:
        exchange = send("hello")
        other = send("hello")
    assert exchange.states == ["submitted", "working", "completed"]
    assert exchange.reply == "HELLO" and exchange.task and exchange.task != other.task


def test_a_message_that_is_too_long_is_rejected_and_a_broken_agent_fails(address):
    with a2a_agents.connect(address, KEY) as send:
        rejected = send("x" * (a2a_agents.LONGEST + 1))
        broken = send("break")
        after = send("still there")
    assert rejected.states[-1] == "rejected" and rejected.reply == ""
    assert broken.states[-1] == "failed" and after.reply == "STILL THERE"


def test_the_card_is_public_and_says_that_a_key_is_needed(address):
    card = httpx.get(address + a2a_agents.CARD, trust_env=False).json()
    assert card["supportedInterfaces"][0]["url"] == f"{address}/"
    assert card["securitySchemes"]["key"]["httpAuthSecurityScheme"]["scheme"] == "bearer"
    assert card["skills"][0]["id"] == "do-a-step"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer no"}, 401),
        ({"Authorization": f"Bearer {KEY}x"}, 401),
        ({"Authorization": f"Bearer {KEY}", "Origin": "https://evil.example"}, 403),
        ({"Authorization": f"Bearer {KEY}", "Host": "evil.example:80"}, 403),
        ({"Authorization": f"Bearer {KEY}", "A2A-Version": "1.0"}, 200),
    ],
)
def test_who_may_ask(address, headers, status):
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {}}
    reply = httpx.post(address, headers=headers, json=body, trust_env=False)
    assert reply.status_code == status


def test_with_a_wrong_key_no_message_gets_through(address):
    with a2a_agents.connect(address, "a-guess") as send, pytest.raises(Exception, match="401"):
        send("hello")


def test_without_a_key_the_program_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.delenv(a2a_agents.KEY, raising=False)
    assert a2a_agents.main(["8000"]) == 2
    assert a2a_agents.KEY in capsys.readouterr().out
