"""Bills are split, solved, scored and merged; what was spent is counted."""

from types import SimpleNamespace

import pytest

from course_utils.models import bundled
from course_utils.prisma import lm
from course_utils.research import graph_of_thoughts as thoughts


@pytest.fixture(scope="module")
def chat():
    model, tokenizer = lm.load(bundled.folder("prisma-lm"))
    return SimpleNamespace(model=model, tokenizer=tokenizer)


def test_parts_are_the_whole() -> None:
    [bill] = thoughts.bills(1, 7, seed=1)
    parts = thoughts.split(bill)
    assert [len(part.items) for part in parts] == [2, 2, 2, 1]
    assert sum(part.answer for part in parts) == bill.answer
    assert sum((part.items for part in parts), ()) == bill.items


def test_a_bill_asks_in_the_models_words() -> None:
    bill = thoughts.Bill("Ada", ((2, "cube", 5), (3, "star", 7)))
    assert bill.question == "Ada buys 2 cubes for 5 euros each and 3 stars for 7 euros each. What is the total?"
    assert bill.answer == 31
    [drawn] = thoughts.bills(1, 2, seed=3, prices=(50, 99))
    assert all(50 <= price <= 99 for _, _, price in drawn.items)


@pytest.mark.parametrize("items", [0, 9])
def test_a_bill_has_one_to_eight_items(items: int) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        thoughts.bills(1, items, seed=1)


def test_the_number_with_most_votes_is_kept_and_silence_is_no_vote() -> None:
    assert thoughts.best_value([3, 5, 5, None]) == (5, 0.5)
    assert thoughts.best_value([4, 2]) == (4, 0.5)  # of equals the first
    assert thoughts.best_value([None, None]) == (None, 0.0)


def test_numbers_are_read_where_they_stand() -> None:
    assert thoughts.number("2 * 3 = 6. Answer: 6") == 6 and thoughts.number("no idea") is None
    assert thoughts.first_number(" 314. 5 * 2") == 314 and thoughts.first_number("x 3") is None


def test_a_graph_solves_what_a_chain_does_not(chat) -> None:
    asked = thoughts.bills(8, 4, seed=1, prices=(3, 25))
    graphs = thoughts.solve(chat, asked)
    by_graph = sum(graph.answer == graph.bill.answer for graph in graphs)
    by_chain = sum(graph.answer == graph.bill.answer for graph in thoughts.chain(chat, asked))
    assert by_graph >= 5 and by_chain <= 1
    assert thoughts.answers(graphs)[0] == graphs[0].thoughts[-1].value
    assert thoughts.tokens(graphs) == sum(graph.tokens for graph in graphs) / 8
    first, second = thoughts.values(graphs[0], "subtotal")
    assert graphs[0].thoughts[-1].words != "" and first + second > 0
    kinds = [thought.kind for thought in graphs[0].thoughts]
    assert kinds == ["bill", "part", "part", "subtotal", "subtotal", "merge"]
    assert graphs[0].thoughts[-1].parents == (3, 4) and graphs[0].tokens > 100


def test_an_odd_part_waits_for_the_next_round(chat) -> None:
    [bill] = thoughts.bills(1, 6, seed=2, prices=(3, 25))
    [graph] = thoughts.solve(chat, [bill])
    merges = [thought for thought in graph.thoughts if thought.kind == "merge"]
    assert [set(merge.parents) for merge in merges] == [{4, 5}, {6, 7}]


def test_samples_are_scored_by_agreement(chat) -> None:
    [graph] = thoughts.solve(chat, thoughts.bills(1, 2, seed=4), samples=3)  # greedy: all three agree
    assert graph.thoughts[-1].score == 1.0
