"""The agent as a graph: its ways, and that a killed process goes on without paying twice."""

import random
import threading
from contextlib import closing
from typing import Any

import pytest

from course_utils.agents import graph
from course_utils.prisma import text, tools

# A process takes one to three seconds to import LangGraph: few of them, and each with much to show.


@pytest.fixture
def order(prisma):
    return next(iter(prisma.orders.values()))


@pytest.fixture
def model(order):
    """A model that has learned one trace by heart."""
    total = order.quantity * order.product.price
    turns = [
        f"Thought: I look up the order.\nAction: orders[{order.number}]\n",
        f"Thought: I need the price.\nAction: catalogue[{order.product.name}]\n",
        f"Thought: I multiply.\nAction: calculator[{order.quantity} * {order.product.price}]\n",
        f"Thought: I know the answer.\nAnswer: {total} euros",
    ]
    return lambda prompt: turns[prompt.count("Observation:")]


def approve(request: dict) -> dict:
    return {"verdict": "approve", "by": "Ada"}


def outlive(folder, order, model, kill, decide=approve, keys="kept"):
    first = text.prompt("react", f"What does order {order.number} cost?")
    return graph.outlive(folder, order.number, first, model, decide, kill, keys)


def total(order) -> tuple[int, int]:
    return order.number, order.quantity * order.product.price


def test_killed_at_five_random_points_it_pays_once(tmp_path, prisma, order, model) -> None:
    graph.open_shop(prisma, tmp_path)
    points = random.Random(7).sample(range(1, 15), 4)
    moments = outlive(tmp_path, order, model, graph.Killer(points, [graph.WORST]))
    assert sum(moment.killed for moment in moments) == 5 and moments[-1].process == 6
    assert any(moment.killed and moment.said == graph.WORST for moment in moments)
    assert graph.payments(tmp_path) == [total(order)]
    assert moments[-1].said.startswith("done: ") and not moments[-1].killed


def test_what_is_saved_is_not_done_again(tmp_path, prisma, order, model) -> None:
    graph.open_shop(prisma, tmp_path)
    asked = []

    def decide(request: dict) -> dict:
        asked.append(request)
        return approve(request)

    moments = outlive(tmp_path, order, model, graph.Killer(words=["a person is asked"]), decide)
    thought = [moment.said for moment in moments].count("the model is asked")
    assert thought == 4  # before the kill; the second process only asked the person
    assert asked == [{"pay back": total(order)[1], "for": order.number}]
    assert graph.payments(tmp_path) == [total(order)]


def test_a_key_made_at_each_attempt_pays_twice(tmp_path, prisma, order, model) -> None:
    graph.open_shop(prisma, tmp_path)
    outlive(tmp_path, order, model, graph.Killer(words=[graph.WORST]), keys="fresh")
    assert graph.payments(tmp_path) == [total(order)] * 2


def press(folder, order, model, seconds: float) -> bool:
    """Run it, and kill it `seconds` after its first word, whatever it is doing. Whether it was done before."""
    answer = {"opening": text.prompt("react", f"What does order {order.number} cost?")}
    with graph.started(folder, order.number, "kept") as child:
        timer = threading.Timer(seconds, child.kill)
        try:
            message = graph.exchange(child, answer)
            timer.start()  # the imports are over
            if not seconds:
                timer.join()
            while "done" not in message:
                message = graph.exchange(child, graph.reply_to(message, model, approve))
        except (RuntimeError, ValueError):  # silence, or half a line
            return False
        finally:
            timer.cancel()
    return True


def test_killed_by_the_clock_it_pays_once(tmp_path, prisma, order, model) -> None:
    """Not between two words but anywhere, in the middle of a write, too."""
    graph.open_shop(prisma, tmp_path)
    rng = random.Random(3)
    assert not press(tmp_path, order, model, seconds=0)
    for _ in range(3):  # a quick machine may be done before
        press(tmp_path, order, model, rng.uniform(0.005, 0.05))
    assert press(tmp_path, order, model, seconds=60)
    assert graph.payments(tmp_path) == [total(order)]


# --- in this process


def run_here(tmp_path, prisma, order, model, decision: dict) -> dict:
    """The state at the end of a run that nobody kills, with LangGraph's memory in place of its file."""
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.types import Command

    graph.open_shop(prisma, tmp_path)
    with closing(graph.connect(tmp_path / graph.SHOP)) as database:
        steps = graph.Steps(tools.Toolbox(database), database, lambda message: graph.reply_to(message, model, approve))
        app = graph.build(steps).compile(checkpointer=InMemorySaver())
        thread = {"configurable": {"thread_id": "1"}}
        prompt = text.prompt("react", f"What does order {order.number} cost?")
        app.invoke({"number": order.number, "prompt": prompt, "calls": []}, thread)
        return (
            app.invoke(Command(resume=decision), thread) if app.get_state(thread).next else app.get_state(thread).values
        )


class Lost(Exception):
    """The machine has stopped."""


def losing(lost: int) -> Any:
    """A saver that stops at its checkpoint number `lost`, when the result of the step before it is saved already."""
    from langgraph.checkpoint.memory import InMemorySaver

    class Saver(InMemorySaver):
        puts = 0

        def put(self, *told: Any) -> Any:
            self.puts += 1
            if self.puts == lost:
                raise Lost
            return super().put(*told)

    return Saver()


CHECKPOINTS = 12  # of a whole run: the question, its first state, and one after each of ten steps


@pytest.mark.parametrize("lost", range(1, CHECKPOINTS + 1))
def test_whichever_checkpoint_is_lost_it_pays_once(tmp_path, prisma, order, model, lost: int) -> None:
    graph.open_shop(prisma, tmp_path)
    opening = text.prompt("react", f"What does order {order.number} cost?")
    with closing(graph.connect(tmp_path / graph.SHOP)) as database:
        steps = graph.Steps(tools.Toolbox(database), database, lambda message: graph.reply_to(message, model, approve))
        saver = losing(lost)
        app = graph.build(steps).compile(checkpointer=saver)
        with pytest.raises(Lost):
            graph.go_on(app, order.number, opening, steps.talk)
        receipt = graph.go_on(app, order.number, opening, steps.talk)
    assert receipt.startswith(f"{total(order)[1]} euros")
    assert graph.payments(tmp_path) == [total(order)]


def test_a_rejected_refund_is_not_paid(tmp_path, prisma, order, model) -> None:
    state = run_here(tmp_path, prisma, order, model, {"verdict": "reject", "by": "Ada"})
    assert "receipt" not in state and graph.payments(tmp_path) == []
    assert [call.partition("[")[0] for call in state["calls"]] == ["orders", "catalogue", "calculator"]


def test_an_edited_refund_is_paid_as_edited(tmp_path, prisma, order, model) -> None:
    run_here(tmp_path, prisma, order, model, {"verdict": "edit", "by": "Ada", "amount": 5})
    assert graph.payments(tmp_path) == [(order.number, 5)]


@pytest.mark.parametrize("said", ["", "Answer: blue", "I do not know.", "Thought: hm."])
def test_without_an_amount_nobody_is_asked(tmp_path, prisma, order, said: str) -> None:
    state = run_here(tmp_path, prisma, order, lambda prompt: said, {"verdict": "approve", "by": "Ada"})
    assert "decision" not in state and graph.payments(tmp_path) == []


def test_an_agent_in_a_circle_ends(tmp_path, prisma, order) -> None:
    state = run_here(tmp_path, prisma, order, lambda prompt: "Action: policy[fee]", {"verdict": "approve"})
    assert len(state["calls"]) == graph.MOST_CALLS and graph.payments(tmp_path) == []


def test_a_key_is_paid_once(tmp_path, prisma) -> None:
    graph.open_shop(prisma, tmp_path)
    with closing(graph.connect(tmp_path / graph.SHOP)) as database:
        for key in ("a", "a", "b"):
            graph.pay(database, key, 4821, 24)
    assert graph.payments(tmp_path) == [(4821, 24)] * 2


def test_unknown_keys_are_refused(tmp_path, order, model) -> None:
    with pytest.raises(ValueError, match="kept, fresh"):
        outlive(tmp_path, order, model, graph.Killer(), keys="none")


def test_a_process_that_fails_says_where_to_look(tmp_path, order, model) -> None:
    """No shop was opened in this folder."""
    with pytest.raises(RuntimeError, match=r"errors\.log"):
        outlive(tmp_path, order, model, graph.Killer())
    assert "no such table" in (tmp_path / "errors.log").read_text("utf-8")


def test_every_node_and_edge_has_its_place_in_the_picture() -> None:
    from course_utils import figures

    fig, ax = figures.figure()
    graph.draw(ax, graph.build(graph.Steps(None, None, print)))
    written = {label.get_text() for label in ax.texts if label.get_text()}
    assert written == {"start", "think", "act", "propose", "approve", "refund", "end"}
    fig.clear()
