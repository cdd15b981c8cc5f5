"""Several agents on one task: planner and executor at a blackboard, a group of roles that hand over, a vote.

All agents here are one model. What makes them several is what each of them reads, and which tools it has.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from course_utils.agents import react
from course_utils.agents.loop import STOP, WRITE, Step, Tools, Trace, use
from course_utils.agents.many_agents.task_queue import LAST, call_in, tasks_in
from course_utils.prisma import text
from course_utils.prisma.shop import Shop

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


# ---------------------------------------------------------------- requests with several questions


@dataclass(frozen=True)
class Request:
    """A customer's message with several questions, and the task behind each."""

    words: str
    tasks: tuple[text.Episode, ...]


def draw_requests(n: int, parts: int, seed: int, shop: Shop) -> list[Request]:
    """`n` messages of `parts` questions each, no question twice; each ends with a question mark."""
    drawn = text.episodes(2 * n * parts, seed, shop)
    tasks = [task for task in drawn if task.question.endswith("?")]
    requests = []
    for i in range(0, n * parts, parts):
        group = tuple(tasks[i : i + parts])
        asked = [task.question for task in group]
        requests.append(Request(" ".join(asked), group))
    return requests


def split_request(words: str) -> list[str]:
    """The questions in a message: it is cut behind each question mark."""
    return [part.strip() for part in re.split(r"(?<=[?])\s", words) if part.strip()]


def all_right(request: Request, answers: Sequence[str]) -> bool:
    """Whether every question of the request has its right answer, in the request's order."""
    if len(answers) != len(request.tasks):
        return False
    return all(text.correct(task.answer, said) for task, said in zip(request.tasks, answers, strict=True))


# ---------------------------------------------------------------- planner and executor at a blackboard


@dataclass
class Entry:
    """A goal on the blackboard: the question that it serves, the goal in words, its result once it has one."""

    question: str
    goal: str
    result: str = ""
    tries: int = 0
    closed: bool = False


@dataclass
class Blackboard(Trace):
    """What planner and executor share for one request, and all that they have: they never speak to each other."""

    entries: list[Entry] = field(default_factory=list)

    def of(self, question: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.question == question]

    def next_open(self) -> Entry | None:
        return next((entry for entry in self.entries if not entry.closed), None)

    def answers(self) -> list[str]:
        """The results of the goals "Answer.", in their order."""
        return [entry.result for entry in self.entries if entry.goal == LAST]

    def table(self) -> list[dict]:
        """The board as rows of a table."""
        rows = []
        for entry in self.entries:
            row = {"question": entry.question, "the planner writes": entry.goal}
            rows.append(row | {"the executor writes": entry.result, "tries": entry.tries})
        return rows


def two_agents(
    chat: "Chat", toolbox: Tools, requests: Sequence[str], tries: int = 1, split: bool = True
) -> list[Blackboard]:
    """A planner writes goals, an executor works on one at a time; many boards at once, so that the model has batches.

    A goal whose tool failed stays open until it was tried `tries` times. `split` cuts each request into its questions
    first; without it the planner gets the whole message.
    """
    boards = [Blackboard(words) for words in requests]
    _plan(chat, boards, split)
    while going := [board for board in boards if board.next_open()]:
        _execute(chat, toolbox, going, tries)
    for board in boards:
        board.answer, board.stopped = " ".join(board.answers()), "answered"
    return boards


def _plan(chat: "Chat", boards: Sequence[Blackboard], split: bool) -> None:
    """The planner's turn: it reads each question alone, and writes its goals."""
    work = []
    for board in boards:
        questions = split_request(board.question) if split else [board.question]
        work += [(board, question) for question in questions]
    prompts = [text.prompt("planner", question) for _, question in work]
    replies = chat.complete_many(prompts, max_new_tokens=WRITE)
    for (board, question), prompt, reply in zip(work, prompts, replies, strict=True):
        board.log.append((prompt, reply))
        goals = [*tasks_in(reply), LAST]
        board.entries += [Entry(question, goal) for goal in goals]


def _execute(chat: "Chat", toolbox: Tools, boards: Sequence[Blackboard], tries: int) -> None:
    """The executor's turn: on each board the first open goal, with what was found for the same question."""
    entries, prompts = [], []
    for board in boards:
        entry = board.next_open()
        done = [(other.goal, other.result) for other in board.of(entry.question) if other.closed]
        entries.append(entry)
        prompts.append(text.executor_prompt(entry.question, done, entry.goal))
    replies = chat.complete_many(prompts, max_new_tokens=WRITE)
    for board, entry, prompt, reply in zip(boards, entries, prompts, replies, strict=True):
        board.log.append((prompt, reply))
        _write_result(board, entry, reply, toolbox, tries)


def _write_result(board: Blackboard, entry: Entry, reply: str, toolbox: Tools, tries: int) -> None:
    """Run the call in a reply and write its result on the board; an answer is a result, too."""
    call = call_in(reply)
    entry.tries += 1
    entry.result = use(toolbox, *call).text if call else text.final_answer(reply)
    if call:
        board.steps.append(Step(entry.goal, *call, entry.result))
    entry.closed = not entry.result.startswith("error:") or entry.tries >= tries


# ---------------------------------------------------------------- a group of roles

ROLES = {
    "customer service": ("customer", "policy"),
    "warehouse": ("orders", "catalogue"),
    "accountant": ("calculator",),
}
# What the next colleague gets to read of what was found so far.
HANDED = ("everything", "the last result", "the question")
EMPTY = "(nobody has this tool)"


class Work(TypedDict):
    """What the group shares: the question, what was found, who said what (role, prompt, reply), the answer."""

    question: str
    found: str
    log: list[tuple[str, str, str]]
    answer: str


def owner(tool: str) -> str:
    """The role that has a tool, EMPTY if none has it."""
    return next((role for role, tools in ROLES.items() if tool in tools), EMPTY)


def role_prompt(role: str, question: str) -> str:
    """prisma-lm's prompt for a role: it is told of its own tools only."""
    tools = ", ".join(ROLES[role])
    system = f"Use tools: {tools}. Write Thought, Action, Observation, then Answer."
    return text.turn("system", system) + text.turn("user", question) + "<|assistant|>"


def make_group(chat: "Chat", toolbox: Tools, handed: str = "everything", max_turns: int = 20) -> Any:
    """A LangGraph of the three roles. Each uses its own tools; a call of another's tool hands the work over to it.

    `handed` is one of HANDED. The group stops after `max_turns` replies. ValueError for anything else.
    """
    from langgraph.graph import START, StateGraph

    if handed not in HANDED:
        raise ValueError(f"handed is {handed!r}: choose one of {', '.join(HANDED)}.")
    graph = StateGraph(Work)
    for role in ROLES:
        graph.add_node(role, _member(chat, toolbox, role, handed, max_turns), destinations=(*ROLES, "__end__"))
    graph.add_edge(START, "customer service")
    return graph.compile()


def _member(chat: "Chat", toolbox: Tools, role: str, handed: str, max_turns: int) -> Any:
    """The turn of one role: think, then use an own tool, hand over, or answer."""
    from langgraph.graph import END
    from langgraph.types import Command

    def take_turn(state: Work) -> Command:
        prompt = role_prompt(role, state["question"]) + state["found"]
        reply = chat.complete(prompt, max_new_tokens=WRITE, stop=STOP)
        log = [*state["log"], (role, prompt, reply)]
        _, kind, rest = react.read_reply(reply)
        call = re.fullmatch(r"(\w+)\[(.*)\]", rest) if kind == "Action" else None
        if not call or len(log) >= max_turns:
            answer = text.final_answer(rest) if kind == "Answer" else ""
            return Command(goto=END, update={"log": log, "answer": answer})
        colleague = owner(call.group(1))
        if colleague == EMPTY:
            return Command(goto=END, update={"log": log})
        if colleague != role:
            found = _passed_on(state["found"], handed)
            return Command(goto=colleague, update={"log": log, "found": found})
        seen = use(toolbox, *call.groups()).text
        found = f"{state['found']}{react.first_turn(reply)}\nObservation: {seen}\n"
        return Command(goto=role, update={"log": log, "found": found})

    return take_turn


def _passed_on(found: str, handed: str) -> str:
    """The part of the record that a colleague gets."""
    if handed == "everything" or not found:
        return found
    if handed == "the question":
        return ""
    return "Thought:" + found.split("Thought:")[-1]


def run_group(group: Any, question: str) -> Trace:
    """Ask the group. The steps of the trace are its turns: who spoke, and what was written."""
    start = {"question": question, "found": "", "log": [], "answer": ""}
    state = group.invoke(start, {"recursion_limit": 100})
    trace = Trace(question, answer=state["answer"])
    trace.stopped = "answered" if state["answer"] else "no answer"
    trace.log = [(prompt, reply) for _, prompt, reply in state["log"]]
    trace.steps = [Step(role, *_action(reply), reply) for role, _, reply in state["log"]]
    return trace


def _action(reply: str) -> tuple[str, str]:
    _, kind, rest = react.read_reply(reply)
    return kind, rest


# ---------------------------------------------------------------- the same agent several times


@dataclass
class Sampled:
    """A chat that samples at `temperature`; each batch of replies is drawn with the next seed."""

    chat: "Chat"
    temperature: float
    seed: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chat, name)

    def complete_many(self, prompts: Sequence[str], max_new_tokens: int = 128, stop: Sequence[str] = ()) -> list[str]:
        self.seed += 1
        return self.chat.complete_many(prompts, max_new_tokens, stop, self.temperature, self.seed)
