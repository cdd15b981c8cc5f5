"""What a customer wants: rules that turn free or spoken words into a kind of request and a question prisma-lm knows.

prisma-lm answers everything, also what it does not understand ("Hello" gets a price). So rules read first, and what
they do not know is never handed to the model.
"""

import re
from dataclasses import dataclass

from course_utils.prisma.shop import COLOURS, SHAPES, SIZES
from course_utils.prisma.speech import DIGITS

FOUR_DIGITS = re.compile(r"\b\d{4}\b")
_SPOKEN = re.compile(rf"\b(?:{'|'.join(DIGITS)})(?: (?:{'|'.join(DIGITS)}))*\b")
_SHAPE = "|".join(SHAPES)
_PRODUCT = re.compile(rf"\b({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({_SHAPE})s?\b")
_PIECES = re.compile(r"\b([2-9])\b")
_MEMORY = re.compile(r"what (did|have) i (just )?(ask|say|said)|do you remember|asked you? ?before|my last question")
_REFUND = re.compile(r"\brefund|\breturn\b|\bback\b|\bcancel")
_COST = re.compile(r"\bcosts?\b|\bpay\b|\bpaid\b|\bprice\b|how much|\btotal\b")
_STOCK = re.compile(r"how many|\bstock\b|\bleft\b|\bhave any\b")
_CONTENTS = re.compile(r"what is in|which toys?|what did i (buy|order)|\bcontents\b")
_STATUS = re.compile(r"\bwhere\b|\bstatus\b|\bcome\b|\barrived?\b|\bsent\b|about my order|on its way")
_IT = re.compile(r"\b(it|this|that|one)\b")


@dataclass(frozen=True)
class Focus:
    """What was talked about last, so that "it" means something: an order's number, a product's name, or ""."""

    order: str = ""
    product: str = ""


@dataclass(frozen=True)
class Request:
    """What is wanted. `kind` is refund, order, product, memory, policy or unclear; `about` a number or a name.

    `question` is what prisma-lm is asked, in a form that it learned, and "" where it is not asked.
    """

    kind: str
    about: str = ""
    question: str = ""


def with_digits(words: str) -> str:
    """Spoken digits as figures: "order three four four four" becomes "order 3444"."""

    def figures(match: re.Match) -> str:
        names = match.group().split()
        return "".join(str(DIGITS.index(name)) for name in names)

    return _SPOKEN.sub(figures, words)


def understand(words: str, focus: Focus) -> Request:
    """The request in a customer's `words`. "it" is what `focus` names. What fits no rule is a question on policies."""
    plain = with_digits(" ".join(words.lower().split()))
    if _MEMORY.search(plain):
        return Request("memory")
    number = _order_number(plain, focus)
    if number:
        return _about_order(plain, number)
    product = _product(plain, focus)
    if product:
        return _about_product(plain, product)
    return Request("policy", plain) if plain else Request("unclear")


def _order_number(plain: str, focus: Focus) -> str:
    """The order that is meant: its number in the words, or the one talked about last."""
    found = FOUR_DIGITS.search(plain)
    if found:
        return found.group()
    return focus.order if _points(plain) else ""


def _product(plain: str, focus: Focus) -> str:
    """The product that is meant: its name in the words, or the one talked about or shown last."""
    found = _PRODUCT.search(plain)
    if found:
        return " ".join(found.groups())
    return focus.product if _points(plain) else ""


def _points(plain: str) -> bool:
    """Whether the words point to something said before: "it", with a verb that asks about an order or a product."""
    asks = _REFUND, _COST, _STOCK, _CONTENTS, _STATUS
    return bool(_IT.search(plain)) and any(pattern.search(plain) for pattern in asks)


def _about_order(plain: str, number: str) -> Request:
    if _REFUND.search(plain):
        return Request("refund", number, f"What does order {number} cost?")
    if _COST.search(plain):
        return Request("order", number, f"What does order {number} cost?")
    if _CONTENTS.search(plain):
        return Request("order", number, f"What is in order {number}?")
    if "how many" in plain:
        return Request("order", number, f"How many toys are in order {number}?")
    if _STATUS.search(plain):
        return Request("order", number, f"Where is order {number}?")
    return Request("unclear", number)


def _about_product(plain: str, product: str) -> Request:
    pieces = _PIECES.search(plain)
    if _STOCK.search(plain):
        return Request("product", product, f"How many of the {product} are in stock?")
    if pieces:
        return Request("product", product, f"What do {pieces.group()} pieces of the {product} cost?")
    return Request("product", product, f"What does the {product} cost?")
