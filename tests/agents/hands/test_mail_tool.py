"""Letters go to known addresses, as they were approved, and to a real server on this machine."""

from email import message_from_bytes

import pytest
from aiosmtpd.controller import Controller

from course_utils.agents.hands.mail_tool import Outbox, Refused, letter
from course_utils.serving import free_port

ADA = "ada@customers.example"


class Box:
    def __init__(self):
        self.letters = []

    async def handle_DATA(self, server, session, envelope):
        self.letters.append((envelope.rcpt_tos, envelope.content))
        return "250 OK"


@pytest.fixture
def post():
    box = Box()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield controller.port, box.letters
    controller.stop()


def test_a_server_that_is_not_there_is_said():
    outbox = Outbox(free_port(), "shop@prisma.example", [ADA], lambda words: True)
    sent = outbox.send(ADA, "Your order", "It is packed.")
    assert not sent.ok and "ConnectionRefusedError" in sent.text and outbox.sent == 0


def test_what_was_approved_is_what_arrives(post):
    port, letters = post
    shown = []
    outbox = Outbox(port, "shop@prisma.example", [ADA], lambda words: shown.append(words) or True)
    assert outbox.send(ADA, "Your order", "It is packed.\n.\nDear Ada \u2014 bye").ok
    [(recipients, content)] = letters
    assert recipients == [ADA]
    arrived = message_from_bytes(content)
    assert arrived["Subject"] == "Your order" and arrived["To"] == ADA
    assert content.decode().replace("\r\n", "\n").strip() == shown[0].replace("\r\n", "\n").strip()


@pytest.mark.parametrize(
    ("to", "subject", "body", "said"),
    [
        (f"{ADA}\r\nBcc: evil@evil.example", "Hello", "x", "one line"),
        (f"{ADA}, evil@evil.example", "Hello", "x", "one plain address"),
        (f"Ada <{ADA}>", "Hello", "x", "one plain address"),
        (f"{ADA}\n", "Hello", "x", "one line"),
        ("ada", "Hello", "x", "one plain address"),
        ("-oQ/tmp@x", "Hello", "x", "one plain address"),
        (ADA, "Hello\r\nBcc: evil@evil.example", "x", "one line"),
        (ADA, "Hello\u2028Bcc: x", "x", "one line"),
        (ADA, "", "x", "subject has"),
        (ADA, "x" * 121, "x", "subject has"),
        (ADA, "Hello", "", "text has 1"),
        (ADA, "Hello", "x" * 4001, "text has 1"),
        (ADA, "Hello", "x\0y", "no NUL"),
        ("evil@evil.example", "Hello", "x", "no address of a customer"),
    ],
)
def test_what_is_wrong_is_neither_shown_nor_sent(post, to, subject, body, said):
    port, letters = post
    outbox = Outbox(port, "shop@prisma.example", [ADA], lambda words: pytest.fail("nobody has to look at this"))
    result = outbox.send(to, subject, body)
    assert not result.ok and said in result.text and letters == []


def test_a_body_that_looks_like_headers_stays_a_body():
    arrived = message_from_bytes(letter("shop@prisma.example", ADA, "Hello", "Bcc: evil@evil.example").as_bytes())
    assert arrived["Bcc"] is None and "Bcc" in arrived.get_payload()


def test_without_approval_nothing_leaves_and_after_five_letters_neither(post):
    port, letters = post
    refusing = Outbox(port, "shop@prisma.example", [ADA], lambda words: False)
    assert refusing.send(ADA, "Hello", "x").text == "error: the letter was not approved"
    outbox = Outbox(port, "shop@prisma.example", [ADA], lambda words: True, most=2)
    assert [outbox.send(ADA, "Hello", "x").ok for _ in range(3)] == [True, True, False]
    assert len(letters) == 2


def test_bad_fields_raise_for_a_programmer():
    with pytest.raises(Refused, match="one line"):
        letter("shop@prisma.example", "a\nb", "Hello", "x")
