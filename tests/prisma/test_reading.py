"""The texts and questions of the reading recipe: every answer is where it says, and what is missing is missing."""

import random

import pytest

from course_utils.prisma import reading
from course_utils.prisma.shop import make_shop


@pytest.mark.parametrize("split", reading.WORDINGS)
def test_the_named_source_holds_the_answer(split: str) -> None:
    for passage in reading.tests(100, 3, split, absent=0):
        [question] = passage.questions
        core = question.answer.removesuffix(" euros").lower()
        assert core in passage.sources[question.source - 1].lower()


def test_what_is_not_there_has_no_source() -> None:
    for passage in reading.tests(100, 3, absent=1):
        [question] = passage.questions
        assert (question.answer, question.source) == (reading.UNKNOWN, None)


def test_a_seed_draws_the_same_and_training_holds_the_test_wordings_back() -> None:
    assert reading.tests(20, 5) == reading.tests(20, 5) != reading.tests(20, 6)
    rng, shop = random.Random(0), make_shop(1)
    taught = "".join(reading.example(rng, shop).text for _ in range(200))
    assert "What does the " in taught and "What do I pay for the " not in taught


def test_replies_are_read_back() -> None:
    [question] = reading.tests(1, 0, absent=0)[0].questions
    assert reading.parse(reading.reply_text(question)) == reading.Read(question.answer, question.source)
    assert reading.parse("Answer: I do not know") == reading.Read(None, None)
    assert reading.parse("") == reading.Read(None, None)
    assert not reading.right(question, reading.reply_text(question, cite=False))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least one source"):
        reading.prompt([], "Where is it?")
    with pytest.raises(ValueError, match="no split 'test'"):
        reading.passage(random.Random(0), make_shop(1), split="test")
