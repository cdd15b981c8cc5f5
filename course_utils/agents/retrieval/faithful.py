"""Is an answer faithful to the passage that it cites? An exact check of values, no second model's opinion.

Faithful is not right: the passage may be the wrong one, and "not within 40 days" has the same values as "within 40
days". But a value that stands nowhere in the passage was not read there.
"""

import re
from collections.abc import Sequence

from course_utils.measures import Measure, share

UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
SMALL = {word: number for number, word in enumerate(f"{UNITS} seventeen eighteen nineteen".split())}
TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
TENS = {word: 10 * place for place, word in enumerate(TENS_WORDS.split(), 2)}
SCALES = {"hundred": 100, "thousand": 1000}
TOKEN = re.compile(r"\d[\d,]*(?:\.\d+)?|[A-Za-z]+(?:['’][a-z]+)?")
# Words that carry no value: an answer may have them without the passage.
EMPTY = frozenset(
    "a an the of to in on at is are was were be been has have had it its they there this that and or for from by as "
    "with within after until up about than then not no yes you your we our i my he she his her him them their us "
    "can may must will would shall do does did so only also answer".split()
)
REFUSALS = ("i do not know", "i don't know", "not in the documents", "does not say", "do not say")
SHORT = 6  # words; of so short an answer every word is a value
MISSING = "I do not know: I found nothing about it in the documents."


def is_refusal(answer: str) -> bool:
    """Whether an answer says that it does not know."""
    plain = answer.lower().replace("’", "'")
    return any(words in plain for words in REFUSALS)


def values(answer: str) -> list[str]:
    """The values in an answer: its numbers and its names; of a short one all words that count.

    Numbers are written with digits, "thirty five" as "35" and "1,060" as "1060". A name is a
    word with a capital that does not begin a sentence. Other words in lower case.
    """
    tokens = _tokens(answer)
    short = len(tokens) <= SHORT
    found = []
    for token, inside in tokens:
        name = inside and token[0].isupper()
        number = token[0].isdigit()
        if number or ((name or short) and token.lower() not in EMPTY):
            found.append(token.lower())
    return list(dict.fromkeys(found))


def unsupported(answer: str, passage: str) -> list[str]:
    """The values of an answer that do not stand in the passage."""
    there = {token.lower() for token, _ in _tokens(passage)}
    return [value for value in values(answer) if value not in there]


def is_faithful(answer: str, passage: str) -> bool:
    """Whether every value of the answer stands in the passage. A refusal claims nothing, and is faithful.

    ValueError for an empty answer: it has to be counted as what it is, and not as faithful.
    """
    if not answer.strip():
        raise ValueError("an empty answer is neither faithful nor not: count it as one that failed")
    return is_refusal(answer) or not unsupported(answer, passage)


def faithfulness(answers: Sequence[str], passages: Sequence[str]) -> Measure:
    """The share of answers that are faithful to their passages, refusals left out, with its interval.

    ValueError if their numbers differ, or if every answer is a refusal.
    """
    if len(answers) != len(passages):
        raise ValueError(f"{len(answers)} answers for {len(passages)} passages: each needs the one that it cites")
    pairs = zip(answers, passages, strict=True)
    marks = [is_faithful(answer, passage) for answer, passage in pairs if not is_refusal(answer)]
    if not marks:
        raise ValueError("every answer is a refusal: there is nothing to hold against a passage")
    return share(marks)


def _tokens(text: str) -> list[tuple[str, bool]]:
    """Words and numbers of a text; with each whether it stands inside a sentence, not at its beginning."""
    tokens: list[tuple[str, bool]] = []
    spelled: list[str] = []
    end = 0
    for match in TOKEN.finditer(text):
        between = text[end : match.start()]
        end = match.end()
        word = match[0].lower()
        if spelled and not (word in (*SMALL, *TENS, *SCALES) and between in (" ", "-", "\n")):
            tokens.append((str(_number(spelled)), True))
            spelled = []
        if word in SMALL or word in TENS or (spelled and word in SCALES):
            spelled.append(word)
            continue
        inside = bool(tokens) and not re.search(r"[.!?:\n\"“(]", between)
        tokens.append((match[0].replace(",", ""), inside))
    if spelled:
        tokens.append((str(_number(spelled)), True))
    return tokens


def _number(words: Sequence[str]) -> int:
    """The number that words such as "one thousand eight hundred eight" spell."""
    total, part = 0, 0
    for word in words:
        if word == "thousand":
            total, part = total + max(part, 1) * 1000, 0
        elif word == "hundred":
            part = max(part, 1) * 100
        else:
            part += SMALL.get(word, 0) + TENS.get(word, 0)
    return total + part
