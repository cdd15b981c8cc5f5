"""Critique, revision and agreement of the alignment lab."""

import pytest

from course_utils.research.principles import Principle, agreement, broken, revise

SHORT = Principle("short", "Say it in two words.", lambda _, reply: len(reply.split()) <= 2)
POLITE = Principle("polite", "Thank.", lambda _, reply: "thanks" in reply)
BOTH = [SHORT, POLITE]


def test_the_critique_names_what_is_broken() -> None:
    assert broken(BOTH, None, "you have to wait") == ["short", "polite"]
    assert broken(BOTH, None, "shipped, thanks") == []


def test_a_reply_is_replaced_only_by_one_that_breaks_less() -> None:
    asked = []

    def rewrite(places: list[int], number: int) -> list[str]:
        asked.append(places)
        return ["worse and worse and worse"] * len(places) if number == 1 else ["shipped, thanks"] * len(places)

    history = revise(BOTH, ["a", "b"], ["shipped, thanks", "shipped"], rewrite, rounds=3)
    assert history[1] == ["shipped, thanks", "shipped"]
    assert history[2] == history[3] == ["shipped, thanks", "shipped, thanks"]
    assert asked == [[1], [1], []]


def test_kappa_is_nothing_for_chance_and_one_for_the_same() -> None:
    same, kappa = agreement([True, False, True, False], [True, False, True, False])
    assert same.value == 1 and kappa == pytest.approx(1)
    same, kappa = agreement([True, True, False, False], [True, False, True, False])
    assert same.value == 0.5 and kappa == pytest.approx(0)


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ValueError, match="no principle"):
        broken([], None, "x")
    with pytest.raises(ValueError, match="one each"):
        revise(BOTH, ["a"], [], lambda places, number: [], rounds=1)
    with pytest.raises(ValueError, match="same pairs"):
        agreement([True], [])
