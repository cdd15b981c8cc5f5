"""The gate before what cannot be undone: who is asked, what is done, what is written down; and a person who tires."""

import json
import random

import pytest

from course_utils.agents import approval, frameworks
from course_utils.agents.approval import Decision, Gate, Request


class Till:
    """Counts what is paid."""

    def __init__(self) -> None:
        self.paid = []

    def __call__(self, number: int, amount: int) -> str:
        self.paid.append((number, amount))
        return f"{amount} euros paid"


def refund(amount: int) -> Request:
    return Request("refund", {"number": 4821, "amount": amount}, worth=amount)


def gate_with(decide) -> tuple[Gate, Till]:
    till = Till()
    return Gate(till, needs_person=lambda request: request.worth >= 50, decide=decide), till


def never(request: Request) -> Decision:
    raise AssertionError("nobody should be asked")


def test_below_the_limit_nobody_is_asked() -> None:
    gate, till = gate_with(never)
    assert gate(refund(49)) == "49 euros paid"
    assert till.paid == [(4821, 49)]
    assert gate.record[0].decision.by == "the rule"


def test_approved_edited_rejected() -> None:
    answers = iter(
        [
            Decision("approve", "Ada"),
            Decision("edit", "Ada", "it cost 60", {"amount": 60}),
            Decision("reject", "Ben", "not his order"),
        ]
    )
    gate, till = gate_with(lambda request: next(answers))
    said = [gate(refund(amount)) for amount in (50, 300, 400)]
    assert till.paid == [(4821, 50), (4821, 60)]
    assert said[2] == "error: refused by Ben: not his order"
    assert [row["verdict"] for row in gate.rows()] == ["approve", "edit", "reject"]
    assert gate.record[1].request.arguments["amount"] == 300  # what was asked for stays in the record


def test_silence_is_no_consent() -> None:
    def broken(request: Request) -> Decision:
        raise TimeoutError

    gate, till = gate_with(broken)
    assert "no decision (TimeoutError)" in gate(refund(500))
    assert till.paid == [] and gate.record[0].decision.verdict == "reject"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"verdict": "yes", "by": "Ada"}, "approve, edit, reject"),
        ({"verdict": "approve", "by": ""}, "name"),
        ({"verdict": "edit", "by": "Ada"}, "arguments"),
        ({"verdict": "approve", "by": "Ada", "arguments": {"amount": 1}}, "arguments"),
    ],
)
def test_a_decision_that_says_nothing_clear_is_refused(made: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Decision(**made)


def test_an_unclear_decision_pays_nothing() -> None:
    gate, till = gate_with(lambda request: Decision("maybe", "Ada"))
    gate(refund(100))
    assert till.paid == []


def test_the_record_says_who_when_and_what(tmp_path) -> None:
    gate, _ = gate_with(lambda request: Decision("approve", "Ada", "as ordered"))
    gate(refund(100))
    file = tmp_path / "decisions.jsonl"
    gate.write(file)
    (line,) = file.read_text("utf-8").splitlines()
    kept = json.loads(line)
    assert kept["decision"] == {"verdict": "approve", "by": "Ada", "why": "as ordered", "arguments": {}}
    assert kept["request"]["worth"] == 100 and kept["when"].endswith("+00:00")


def test_a_record_that_is_written_twice_holds_each_entry_once(tmp_path) -> None:
    gate, _ = gate_with(never)
    for amount in (10, 20):
        gate(refund(amount))
        gate.write(tmp_path / "decisions.jsonl")
    assert len((tmp_path / "decisions.jsonl").read_text("utf-8").splitlines()) == 2


def test_an_action_that_fails_is_on_the_record() -> None:
    """It may be half done."""

    def broken(number: int, amount: int) -> str:
        raise TimeoutError("the bank does not answer")

    gate = Gate(broken, needs_person=lambda request: False, decide=never)
    assert gate(refund(10)) == "error: TimeoutError: the bank does not answer"
    assert gate.record[0].result == "error: TimeoutError: the bank does not answer"


def test_a_person_is_asked_until_the_answer_is_clear() -> None:
    answers = iter(["what?", "Y"])
    decide = approval.by_person("Ada", read=lambda question: next(answers))
    assert decide(refund(100)) == Decision("approve", "Ada")
    assert approval.by_person("Ada", read=lambda question: "n")(refund(100)).verdict == "reject"
    edited = approval.by_person("Ada", read=lambda question: "60")(refund(100))
    assert edited.verdict == "edit" and edited.arguments == {"amount": 60}


# --- a person who tires


def harm(limit: float, tiring: float, prisma) -> float:
    rng = random.Random(1)
    days = [approval.day_of_cases(prisma, 100, 0.05, rng) for _ in range(150)]
    ends = [approval.day(cases, limit, tiring, random.Random(i)) for i, cases in enumerate(days)]
    return sum(paid for _, paid in ends) / len(ends)


def test_who_never_tires_should_see_everything_and_who_tires_should_not(prisma) -> None:
    nobody = float("inf")
    assert harm(0, 0.0, prisma) < 0.1 * harm(nobody, 0.0, prisma)
    assert harm(150, 0.03, prisma) < 0.85 * harm(0, 0.03, prisma)
    assert harm(150, 0.03, prisma) < 0.85 * harm(nobody, 0.03, prisma)


def test_questions_are_counted_and_attention_falls(prisma) -> None:
    cases = [approval.Case(40, False), approval.Case(60, True), approval.Case(200, False)]
    asked, paid = approval.day(cases, 50, tiring=0.0, rng=random.Random(0))
    assert asked == 2 and paid in (0, 60)
    assert approval.day(cases, 1000, 0.0, random.Random(0)) == (0, 60)
    assert approval.attention(0, 0.03) == 0.95 > approval.attention(10, 0.03) > approval.attention(100, 0.03)


# --- the table of frameworks


def test_each_framework_says_its_state_and_where_that_was_read() -> None:
    rows = frameworks.rows()
    named = " ".join(row["project"] for row in rows)
    for name in (
        "LangGraph",
        "AutoGPT",
        "BabyAGI",
        "CrewAI",
        "AutoGen",
        "AG2",
        "Assistants",
        "Agents SDK",
        "smolagents",
    ):
        assert name in named
    assert all(all(row.values()) for row in rows)
    assert "2026" in frameworks.CHECKED
