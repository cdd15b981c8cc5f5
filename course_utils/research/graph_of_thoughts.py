"""Graph of thoughts (arXiv 2308.09687): split a problem, solve the parts, score, keep the best, merge (Unit 7.3)."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from course_utils.prisma import shop, text
from course_utils.research import decoding, reasoning

Item = tuple[int, str, int]  # how many, of which shape, for how many euros each


@dataclass(frozen=True)
class Bill:
    """A purchase of some items, to be added up."""

    buyer: str
    items: tuple[Item, ...]

    @property
    def question(self) -> str:
        """In prisma-lm's words; it was trained on two items."""
        *first, last = [f"{count} {shape}s for {price} euros each" for count, shape, price in self.items]
        listed = f"{', '.join(first)} and {last}" if first else last
        return f"{self.buyer} buys {listed}. What is the total?"

    @property
    def answer(self) -> int:
        return sum(count * price for count, _, price in self.items)


def bills(n: int, items: int, seed: int, prices: tuple[int, int] = (3, 49)) -> list[Bill]:
    """`n` bills of `items` different shapes, at prices from the first to the second (euros).

    ValueError for more items than there are shapes, or none.
    """
    if not 1 <= items <= len(shop.SHAPES):
        raise ValueError(f"{items} items: a bill has 1 to {len(shop.SHAPES)}, one for each shape.")
    rng = random.Random(f"bills {items} {prices} {seed}")
    drawn = []
    for _ in range(n):
        shapes = rng.sample(shop.SHAPES, items)
        bought = [(rng.randint(2, 9), shape, rng.randint(*prices)) for shape in shapes]
        drawn.append(Bill(rng.choice(shop.NAMES), tuple(bought)))
    return drawn


@dataclass(frozen=True)
class Thought:
    """A node: what was done (`kind`), in which words, the number that came out, and the nodes it was made from.

    `score` is the share of samples that agreed on the number.
    """

    kind: str
    words: str
    value: int | None = None
    parents: tuple[int, ...] = ()
    score: float = 1.0


@dataclass
class Graph:
    """All thoughts on one bill, in the order in which they came, and the tokens read and written for them."""

    bill: Bill
    thoughts: list[Thought] = field(default_factory=list)
    tokens: int = 0

    def add(self, thought: Thought) -> int:
        """Add a thought; returns its number."""
        self.thoughts.append(thought)
        return len(self.thoughts) - 1

    @property
    def answer(self) -> int | None:
        return self.thoughts[-1].value


# ---------------------------------------------------------------- the operations


def split(bill: Bill, size: int = 2) -> list[Bill]:
    """Bills of at most `size` items, which together are the whole."""
    starts = range(0, len(bill.items), size)
    return [Bill(bill.buyer, bill.items[start : start + size]) for start in starts]


@dataclass(frozen=True)
class Asked:
    """What came of one prompt: the replies, and the tokens read and written for all of them."""

    replies: tuple[str, ...]
    tokens: int


def ask(chat, prompts: Sequence[str], samples: int, temperature: float, steps: int, seed: int) -> list[Asked]:
    """`samples` replies to each prompt, drawn at `temperature` (0: greedy, and then all are the same)."""
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    drawn = {"do_sample": True, "top_k": 0, "temperature": temperature}
    settings = drawn if temperature > 0 else {"do_sample": False}
    rows = decoding.generate(chat, repeated, steps, seed, **settings)
    asked = []
    for place, prompt in enumerate(prompts):
        begin = place * samples
        mine = rows[begin : begin + samples]
        read = len(chat.tokenizer(prompt)["input_ids"])
        spent = sum(read + len(row) for row in mine)
        replies = tuple(chat.tokenizer.batch_decode(mine))
        asked.append(Asked(replies, spent))
    return asked


def best_value(values: Sequence[int | None]) -> tuple[int | None, float]:
    """The number that most samples agree on (of equals the first), and the share that agrees; None
    is no vote.
    """
    votes = Counter(value for value in values if value is not None)
    if not votes:
        return None, 0.0
    value, count = votes.most_common(1)[0]
    return value, count / len(values)


def number(reply: str) -> int | None:
    """The number that a reply ends with, or None."""
    last = reasoning.last_number(reply)
    return int(last) if last else None


def first_number(reply: str) -> int | None:
    """The number that a reply begins with, or None."""
    begun = re.match(r"\s*(\d+)", reply)
    return int(begun[1]) if begun else None


# ---------------------------------------------------------------- the whole


def chain(chat, asked: Sequence[Bill], samples: int = 1, temperature: float = 0.0, seed: int = 0) -> list[Graph]:
    """One chain of thought for each bill as a whole; of several samples the majority counts."""
    prompts = [text.prompt("steps", bill.question) for bill in asked]
    graphs = []
    for bill, got in zip(asked, ask(chat, prompts, samples, temperature, 80, seed), strict=True):
        value, agreed = best_value([number(reply) for reply in got.replies])
        graph = Graph(bill, tokens=got.tokens)
        graph.add(Thought("chain", got.replies[0], value, score=agreed))
        graphs.append(graph)
    return graphs


@dataclass(frozen=True)
class Job:
    """A thought that is still to be had: in which graph, of which kind, from which thoughts, by which prompt."""

    graph: Graph
    kind: str
    parents: tuple[int, ...]
    prompt: str


ROOM = {"subtotal": 60, "merge": 6}  # tokens for a reply
READ = {"subtotal": number, "merge": first_number}  # where its number stands


def solve(
    chat,
    asked: Sequence[Bill],
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Graph]:
    """Split each bill into pairs, solve each pair by chain of thought, keep the best, and merge two
    by two.
    """
    graphs = [Graph(bill) for bill in asked]
    jobs = []
    for graph in graphs:
        jobs += parts_of(graph)
    while jobs:
        kind = jobs[0].kind
        prompts = [job.prompt for job in jobs]
        answers = ask(chat, prompts, samples, temperature, ROOM[kind], seed)
        for job, got in zip(jobs, answers, strict=True):
            value, agreed = best_value([READ[kind](reply) for reply in got.replies])
            job.graph.add(Thought(kind, got.replies[0].strip(), value, job.parents, agreed))
            job.graph.tokens += got.tokens
        jobs = []
        for graph in graphs:
            jobs += merges(graph)
    return graphs


def parts_of(graph: Graph) -> list[Job]:
    """Put the bill and its parts into an empty graph; the jobs of finding the subtotals."""
    root = graph.add(Thought("bill", graph.bill.question))
    jobs = []
    for part in split(graph.bill):
        parent = graph.add(Thought("part", part.question, parents=(root,)))
        jobs.append(Job(graph, "subtotal", (parent,), text.prompt("steps", part.question)))
    return jobs


def merges(graph: Graph) -> list[Job]:
    """The jobs of merging, two by two, the numbers that nothing was made of yet; one that is left over waits."""
    used = set()
    for thought in graph.thoughts:
        used.update(thought.parents)
    waiting = [place for place, thought in enumerate(graph.thoughts) if thought.kind in READ and place not in used]
    jobs = []
    for left, right in zip(waiting[::2], waiting[1::2], strict=False):
        first = graph.thoughts[left].value or 0
        second = graph.thoughts[right].value or 0
        jobs.append(Job(graph, "merge", (left, right), f"{first} + {second} ="))
    return jobs


def values(graph: Graph, kind: str) -> list[int]:
    """The numbers of all thoughts of one kind; one without a number counts as 0."""
    return [thought.value or 0 for thought in graph.thoughts if thought.kind == kind]


def answers(graphs: Sequence[Graph]) -> list[int | None]:
    """The number that each graph ends with."""
    return [graph.answer for graph in graphs]


def tokens(graphs: Sequence[Graph]) -> float:
    """The tokens read and written for a graph, on average."""
    return sum(graph.tokens for graph in graphs) / len(graphs)
