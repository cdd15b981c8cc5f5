"""Unit 7.3: sums with dearer goods are still right."""

import re

import pytest

from course_utils.research import reasoning


@pytest.mark.parametrize("made", reasoning.sums(30, seed=4), ids=lambda made: made.answer)
def test_dearer_goods_cost_fifty_more_each(made) -> None:
    dear = reasoning.dearer(made)
    before, after = (list(map(int, re.findall(r"(\d+) euros", one.question))) for one in (made, dear))
    assert after == [price + 50 for price in before]
    pieces = [int(number) for number in re.findall(r"(\d+) \*", made.steps)]
    assert int(dear.answer) == int(made.answer) + 50 * sum(pieces)
    assert dear.steps.rstrip(". ").endswith(f"= {dear.answer}")
