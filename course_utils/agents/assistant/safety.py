"""The filter at both doors: attacks and personal data on the way in, other people's data on the way out.

Patterns find what their author thought of. They are the outer wall and not the lock: nothing that cannot be undone
hangs on them (see `refunds`).
"""

import re
from dataclasses import dataclass

from course_utils.prisma.shop import NAMES

LONGEST = 400  # characters of a message; the model's window is short, and attacks are often long
ATTACKS = {
    "markers of the model's own text": r"<\|\w*\|>|\b(thought|action|observation|answer)\s*:|\w+\[[^\]]*\]",
    "an order to forget its rules": r"\b(ignore|forget|disregard|override)\b.{0,40}\b(rules?|instructions?|before|above"
    r"|previous|everything|told)",
    "an attempt to skip the approval": r"\bwithout (asking|approval|a check|checking)|\b(already|hereby) approved"
    r"|\bapprove (it|this|the refund) yourself|\bno (approval|confirmation)",
    "an attempt to change its role": r"\byou are now\b|\bact as\b|\bpretend\b|\bsystem prompt\b|\bdeveloper mode\b",
    "a piece of SQL": r"\b(drop|delete|update|insert)\s+(table|from|into|orders)\b|;\s*--|'\s*or\s*'",
}
PERSONAL = {
    "e-mail address": r"\b[\w.+-]+@[\w-]+\.[\w.]+\b",
    "bank account": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b",
    "card number": r"\b\d(?:[ -]?\d){12,18}\b",
    "telephone number": r"(?<![\w])(?!\d{4}-\d\d-\d\d\b)\+?\d(?:[ /-]?\d){7,12}\b",
}


@dataclass(frozen=True)
class Verdict:
    """What the filter says: the text as it may go on, why it may not ("" if it may), and what was blacked out."""

    text: str
    refused: str = ""
    hidden: tuple[str, ...] = ()


def incoming(words: str) -> Verdict:
    """A customer's words: refused where they attack, and without personal data that the shop does not need."""
    if len(words) > LONGEST:
        return Verdict("", f"a message of more than {LONGEST} characters")
    for name, pattern in ATTACKS.items():
        if re.search(pattern, words, re.I | re.S):
            return Verdict("", name)
    return _without_personal_data(words)


def outgoing(words: str, customer: str) -> Verdict:
    """A reply to `customer`: refused if it names somebody else, and without personal data."""
    others = [name for name in NAMES if name != customer]
    if re.search(rf"\b({'|'.join(others)})\b", words):
        return Verdict("", "the name of another customer")
    return _without_personal_data(words)


def _without_personal_data(words: str) -> Verdict:
    hidden = []
    for name, pattern in PERSONAL.items():
        words, count = re.subn(pattern, f"[{name}]", words)
        hidden += [name] * count
    return Verdict(words, hidden=tuple(hidden))
