"""Mail as an agent's tool: written by a model, checked by a program, approved by a person, then sent (Unit 7.2)."""

import re
import smtplib
from collections.abc import Callable, Collection
from email.message import EmailMessage
from email.policy import SMTP

from course_utils.prisma.tools import Result, failed

LOOPBACK = "127.0.0.1"
LONGEST_SUBJECT = 120  # characters
LONGEST_BODY = 4_000
ADDRESS = re.compile(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+")
Approve = Callable[[str], bool]


class Refused(ValueError):
    """A letter that is not sent. The message is what the model gets to read."""


def letter(sender: str, to: str, subject: str, body: str) -> EmailMessage:
    """One plain letter to one address. Refused if a field could become another field, or another recipient."""
    for name, value in {"the address": to, "the subject": subject}.items():
        if not value.isprintable():
            raise Refused(f"{name} is one line: a second one would be a header of its own")
    if not ADDRESS.fullmatch(to):
        raise Refused("the address is one plain address, without a name or a second one")
    if not 0 < len(subject) <= LONGEST_SUBJECT:
        raise Refused(f"the subject has 1 to {LONGEST_SUBJECT} characters")
    if not 0 < len(body) <= LONGEST_BODY:
        raise Refused(f"the text has 1 to {LONGEST_BODY} characters")
    if "\0" in body:
        raise Refused("the text has no NUL")
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message.set_content(body)
    return message


class Outbox:
    """Sends letters by the server on `port` of this machine, after `approve` has seen exactly what will be sent.

    `known` are the addresses that may get one; `most` is how many letters may be sent in all.
    """

    def __init__(self, port: int, sender: str, known: Collection[str], approve: Approve, most: int = 5) -> None:
        self.port, self.sender, self.known = port, sender, set(known)
        self.approve, self.most = approve, most
        self.sent = 0

    def send(self, to: str, subject: str, body: str) -> Result:
        """Send a letter, or say why not."""
        try:
            message = letter(self.sender, to, subject, body)
            if to not in self.known:
                raise Refused(f"{to} is no address of a customer")
            if self.sent >= self.most:
                raise Refused(f"{self.most} letters have been sent; a person has to look first")
            written = message.as_bytes()
            if not self.approve(written.decode("utf-8")):
                raise Refused("the letter was not approved")
        except Refused as error:
            return failed(str(error))
        # The very bytes that were approved, to the one address that was checked. "localhost": not our machine's name.
        try:
            with smtplib.SMTP(LOOPBACK, self.port, "localhost", timeout=10) as server:
                server.sendmail(self.sender, [to], written)
        except OSError as error:  # smtplib's own errors, too
            return failed(f"the mail server does not take it: {type(error).__name__}")
        self.sent += 1
        return Result(f"sent to {to}")
