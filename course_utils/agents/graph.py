"""An agent as a LangGraph state graph that outlives its process, and what ends it at the worst moments (Unit 7.2).

The graph finds out what an order cost, asks a person, and pays the money back. It runs as a program of its own, so that
it can be killed as a machine without power is: `python -m course_utils.agents.graph FOLDER ORDER KEYS`. The model stays
with the parent, which answers the program's questions over pipes and may kill it instead of answering. What the two
processes share is files: the shop's database, and the checkpoints that LangGraph writes after each step.
"""

import json
import os
import re
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from course_utils.agents import react
from course_utils.agents.loop import Tools, Trace
from course_utils.prisma import shop, text, tools
from course_utils.settings import search_path

if TYPE_CHECKING:
    from langgraph.graph import StateGraph

MOST_CALLS = 8  # of tools, in one run
SHOP, CHECKPOINTS = "shop.sqlite", "checkpoints.sqlite"
WORST = "paid, not yet saved"  # the moment at which the money is gone, and no checkpoint says so
KEYS = ("kept", "fresh")  # a payment's key: made once and kept in the state, or made anew at each attempt
PATIENCE = 60  # seconds that a process may wait for the other's lock on a database

Talk = Callable[[dict], dict]  # says something to the parent and returns its answer


class State(TypedDict, total=False):
    """What the graph knows. LangGraph saves it after each step."""

    number: int  # of the order
    prompt: str  # all that the model reads next
    reply: str  # what it wrote last
    calls: list[str]
    amount: int  # euros to pay back
    key: str  # of the payment: the same key is paid once
    decision: dict
    receipt: str


# ---------------------------------------------------------------- the graph


class Steps:
    """What the graph's nodes do: each takes the state, and returns what it changes in it."""

    def __init__(self, toolbox: Tools, database: sqlite3.Connection, talk: Talk, keys: str = "kept") -> None:
        self.toolbox, self.database, self.talk, self.keys = toolbox, database, talk, keys

    def think(self, state: State) -> State:
        return {"reply": self.talk({"ask": state["prompt"]})["reply"]}

    def act(self, state: State) -> State:
        trace = Trace("", state["prompt"])
        react.act(trace, state["reply"], self.toolbox, max_steps=2, max_repeats=2)
        step = trace.steps[0]
        call = f"{step.tool}[{step.argument}]"
        return {"prompt": trace.prompt, "calls": [*state["calls"], call]}

    def propose(self, state: State) -> State:
        # The key is made before anybody is asked, and saved: every attempt to pay will find it.
        return {"amount": euros(state["reply"]), "key": uuid.uuid4().hex}

    def approve(self, state: State) -> State:
        from langgraph.types import interrupt

        return {"decision": interrupt({"pay back": state["amount"], "for": state["number"]})}

    def refund(self, state: State) -> State:
        amount = state["decision"].get("amount", state["amount"])
        key = state["key"] if self.keys == "kept" else uuid.uuid4().hex
        pay(self.database, key, state["number"], amount)
        self.talk({"at": WORST})
        return {"receipt": f"{amount} euros for order {state['number']}"}


def after_thinking(state: State) -> str:
    """Where the graph goes from `think`."""
    kind = react.read_reply(state["reply"])[1]
    if kind == "Action" and len(state["calls"]) < MOST_CALLS:
        return "act"
    return "propose" if kind == "Answer" and euros(state["reply"]) else "__end__"


def after_asking(state: State) -> str:
    """Where the graph goes from `approve`."""
    return "__end__" if state["decision"]["verdict"] == "reject" else "refund"


def build(steps: Steps) -> "StateGraph":
    """Think and act in a cycle, then propose, ask a person, and pay."""
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(State)
    for node in ("think", "act", "propose", "approve", "refund"):
        graph.add_node(node, getattr(steps, node))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", after_thinking, ["act", "propose", END])
    graph.add_edge("act", "think")  # the cycle
    graph.add_edge("propose", "approve")
    graph.add_conditional_edges("approve", after_asking, ["refund", END])
    graph.add_edge("refund", END)
    return graph


def euros(reply: str) -> int:
    """The amount in an answer such as "Answer: 24 euros"; 0 where it names none."""
    said = text.final_answer(react.read_reply(reply)[2])
    amount = re.fullmatch(r"(\d+) euros?", said)
    return int(amount[1]) if amount else 0


# ---------------------------------------------------------------- the shop's side


def open_shop(prisma: shop.Shop, folder: Path) -> None:
    """A new database of the shop in `folder`, with a table of refunds in which a key can stand once."""
    with closing(shop.open_database(prisma, folder / SHOP)) as database:
        database.execute("create table refunds (key text primary key, number int, amount int)")
        database.commit()


def pay(database: sqlite3.Connection, key: str, number: int, amount: int) -> None:
    """Pay `amount` euros back, once for each key: a key that was paid before changes nothing."""
    once = "insert into refunds values (?, ?, ?) on conflict (key) do nothing"
    with database:
        database.execute(once, (key, number, amount))


def payments(folder: Path) -> list[tuple[int, int]]:
    """What was really paid, as the shop's database has it: order and euros of each payment."""
    with closing(sqlite3.connect(folder / SHOP)) as database:
        return database.execute("select number, amount from refunds order by rowid").fetchall()


# ---------------------------------------------------------------- the program that may be killed


def main(folder: Path, number: int, keys: str) -> None:
    """Start the run in `folder`, or go on where its checkpoints end. Waits for the parent's first line."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    opening = hear()["opening"]
    with closing(connect(folder / SHOP)) as database, closing(connect(folder / CHECKPOINTS)) as saved:
        steps = Steps(tools.Toolbox(database), database, talk_to_parent, keys)
        app = build(steps).compile(checkpointer=SqliteSaver(saved))
        receipt = go_on(app, number, opening, talk_to_parent)
        talk_to_parent({"done": receipt})


def go_on(app: Any, number: int, opening: str, talk: Talk) -> str:
    """Run the compiled graph `app` from where its checkpoints end, or from its beginning. Returns the receipt."""
    from langgraph.types import Command

    thread = {"configurable": {"thread_id": f"order-{number}"}}
    given: Any = None  # nothing new: go on
    if not app.get_state(thread).values:
        given = {"number": number, "prompt": opening, "calls": []}
    # Not `.next`: it leaves out a step whose result was saved when the checkpoint after it was not.
    while given or app.get_state(thread).tasks:
        for event in app.stream(given, thread, durability="sync"):
            tell_step(next(iter(event)), talk)
        waiting = app.get_state(thread).interrupts
        given = Command(resume=talk({"waiting": waiting[0].value})) if waiting else None
    return app.get_state(thread).values.get("receipt", "nothing paid")


def connect(file: Path) -> sqlite3.Connection:
    """A database for LangGraph, which runs its steps in threads of its own, one after the other."""
    return sqlite3.connect(file, timeout=PATIENCE, check_same_thread=False)


def tell_step(node: str, talk: Talk) -> None:
    if not node.startswith("__"):  # an interrupt is no node
        talk({"at": f"after {node}"})


def talk_to_parent(message: dict) -> dict:
    """Say one line, and wait for the answer: the parent decides how long this process lives."""
    print(json.dumps(message), flush=True)
    return hear()


def hear() -> dict:
    """One line of the parent's. The program ends with its parent."""
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    return json.loads(line)


# ---------------------------------------------------------------- the parent, which kills


@dataclass(frozen=True)
class Moment:
    """What a process said, and whether it was killed for an answer. `process` and `count` begin with 1."""

    process: int
    count: int  # over all processes
    said: str
    killed: bool


class Killer:
    """Kills at the counts `at`, and the first time that each of the `words` is said."""

    def __init__(self, at: Iterable[int] = (), words: Iterable[str] = ()) -> None:
        self.at, self.words = set(at), set(words)

    def __call__(self, count: int, said: str) -> bool:
        worst = said in self.words
        self.words.discard(said)
        return worst or count in self.at


def outlive(
    folder: Path,
    number: int,
    opening: str,
    ask: Callable[[str], str],
    decide: Callable[[dict], dict],
    kill: Callable[[int, str], bool],
    keys: str = "kept",
) -> list[Moment]:
    """Let the program pay an order back, kill it whenever `kill` says so, and start another, until one is done.

    `opening` is the model's first prompt, `ask` the model: a prompt to a reply. `decide` stands for the person.
    A killed process gets no chance to tidy up: SIGKILL, on Windows TerminateProcess. ValueError for unknown `keys`.
    """
    if keys not in KEYS:
        raise ValueError(f"keys={keys!r}: write one of {', '.join(KEYS)}.")
    moments: list[Moment] = []
    while not moments or moments[-1].killed or not moments[-1].said.startswith("done"):
        process = moments[-1].process + 1 if moments else 1
        with started(folder, number, keys) as child:
            answer: dict | None = {"opening": opening}
            while answer is not None:
                message = exchange(child, answer)
                said = in_words(message)
                killed = kill(len(moments) + 1, said)
                moments.append(Moment(process, len(moments) + 1, said, killed))
                answer = None if killed or "done" in message else reply_to(message, ask, decide)
    return moments


@contextmanager
def started(folder: Path, number: int, keys: str) -> Iterator[subprocess.Popen]:
    """A process that runs this file. It is killed at the end, whatever it does."""
    command = [sys.executable, "-m", "course_utils.agents.graph", str(folder), str(number), keys]
    settings = os.environ | {"PYTHONPATH": search_path(), "PYTHONIOENCODING": "utf-8"}
    log = folder / "errors.log"
    with log.open("a", encoding="utf-8") as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=settings, encoding="utf-8"
        )
        try:
            yield child
        finally:
            child.kill()
            with suppress(OSError):  # the pipe of a process that has ended
                child.communicate()


def exchange(child: subprocess.Popen, answer: dict) -> dict:
    """Answer the process, and read what it says next. RuntimeError if it ends without a word."""
    with suppress(BrokenPipeError):
        print(json.dumps(answer), file=child.stdin, flush=True)
    line = child.stdout.readline()
    if not line:
        raise RuntimeError("The agent's process ended by itself: errors.log in its folder says why.")
    return json.loads(line)


def reply_to(message: Mapping, ask: Callable[[str], str], decide: Callable[[dict], dict]) -> dict:
    if "ask" in message:
        return {"reply": ask(message["ask"])}
    return decide(message["waiting"]) if "waiting" in message else {}


def in_words(message: Mapping) -> str:
    """ "the model is asked", "after act", "a person is asked": what a process said, for a table."""
    if "ask" in message:
        return "the model is asked"
    if "waiting" in message:
        return "a person is asked"
    return message["at"] if "at" in message else f"done: {message['done']}"


# ---------------------------------------------------------------- the picture

PLACES = {
    "__start__": (0, 1),
    "think": (1, 1),
    "act": (1, 0),
    "propose": (2, 1),
    "approve": (3, 1),
    "refund": (4, 1),
    "__end__": (3, 0),
}


def draw(ax: Any, graph: "StateGraph") -> None:
    """Draw a graph that `build` made, as LangGraph has it: conditional edges are dashed."""
    drawn = graph.compile().get_graph()
    for edge in drawn.edges:
        bend = 0.25 if {edge.source, edge.target} == {"think", "act"} else 0
        style = {"arrowstyle": "-|>", "linestyle": "--" if edge.conditional else "-", "shrinkA": 24, "shrinkB": 24}
        style["connectionstyle"] = f"arc3,rad={bend}"
        ax.annotate("", PLACES[edge.target], PLACES[edge.source], arrowprops=style | {"color": "black"})
    for name in drawn.nodes:
        box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "black"}
        ax.text(*PLACES[name], name.strip("_"), ha="center", va="center", bbox=box)
    ax.set(xlim=(-0.5, 4.5), ylim=(-0.4, 1.4))
    ax.axis("off")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
