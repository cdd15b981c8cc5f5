"""Values in an answer are found, and held against the passage that it cites."""

import pytest

from course_utils.agents.retrieval import faithful

PASSAGE = (
    "Customers can send goods back within 40 days. Vera Lindt answers; 1,060 degrees; the age of thirty five Years."
)


@pytest.mark.parametrize(
    ("answer", "values"),
    [
        ("40 days", ["40", "days"]),
        ("thirty-five years", ["35", "years"]),
        ("It is 1,060 degrees.", ["1060", "degrees"]),
        ("You have to ask Vera Lindt for it at least some weeks ahead.", ["vera", "lindt"]),
        ("small red cube", ["small", "red", "cube"]),
        ("twenty one", ["21"]),
        ("one thousand eight hundred eight", ["1808"]),
        ("twelve thousand", ["12000"]),
        ("yes", []),
    ],
)
def test_values_are_found(answer, values):
    assert faithful.values(answer) == values


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("40 days", []),
        ("14 days", ["14"]),
        ("35 years", []),
        ("1060 degrees", []),
        ("Otto Brandt answers within 40 days, and that is what the handbook says.", ["brandt"]),
        ("I do not know.", []),
    ],
)
def test_what_does_not_stand_in_the_passage_is_named(answer, missing):
    if not faithful.is_refusal(answer):
        assert faithful.unsupported(answer, PASSAGE) == missing
    assert faithful.is_faithful(answer, PASSAGE) == (not missing)


def test_a_part_of_a_number_or_word_does_not_count():
    assert not faithful.is_faithful("4 days", PASSAGE)
    assert not faithful.is_faithful("106 degrees", PASSAGE)


def test_refusals_are_known_and_left_out_of_the_share():
    assert faithful.is_refusal(faithful.MISSING) and faithful.is_refusal("I don’t know")
    assert not faithful.is_refusal("You do know: 40 days")
    measure = faithful.faithfulness(["40 days", "7 days", "I do not know"], [PASSAGE] * 3)
    assert (measure.value, measure.n) == (0.5, 2)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="empty answer"):
        faithful.is_faithful(" ", PASSAGE)
    with pytest.raises(ValueError, match="1 answers for 2"):
        faithful.faithfulness(["a"], ["b", "c"])
    with pytest.raises(ValueError, match="every answer is a refusal"):
        faithful.faithfulness(["I do not know"], [PASSAGE])
