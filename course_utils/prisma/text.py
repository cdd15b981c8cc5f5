"""The text that prisma-lm learns from, and the tasks that measure it.

An `Episode` is a question with the tool calls that answer it. One episode can be written as a ReAct trace,
as JSON function calls or as a ReWOO plan, so every format teaches the same skill. The support
conversations of Unit 7.5 are not in here: the base model has never seen them.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from course_utils.prisma.shop import (
    COLOURS,
    NAMES,
    SHAPES,
    SIZES,
    STATUSES,
    Product,
    Shop,
    make_shop,
    open_database,
)
from course_utils.prisma.tools import SIGNATURES, Toolbox

SYSTEM = {
    "react": "Use tools: " + ", ".join(SIGNATURES) + ". Write Thought, Action, Observation, then Answer.",
    "plan": "Plan all tool calls first: " + ", ".join(SIGNATURES) + ".",
    "solve": "Read the evidence and answer.",
    "direct": "Answer at once.",
    "steps": "Think step by step.",
    "read": "Read the facts and answer.",
    "reflect": "The answer was wrong. Say what to do next time.",
    "planner": "Split the task into steps.",
    "executor": "Do the last step with one tool, or answer.",
}

# Ordinary words that the shop's customers use. They are single tokens, and the copy drills cover them.
WORDS = (
    "I we you he she it they my your our their a an the this that these those and or but if so not no yes very too "
    "is are was were be been has have had do does did can could will would may must should want need like know see "
    "hello dear thank thanks please sorry kind regards welcome sincerely glad happy sad angry fine good bad great "
    "order parcel box toy toys shop price stock gift card invoice receipt address name date day days week month "
    "refund return exchange cancel change repair replace send sent pay paid cost costs buy bought wait waiting late "
    "wrong broken missing damaged lost found open closed new old big free full empty safe quick slow soon now today "
    "tomorrow again already still yet here there when where what who why how much many more most less of in on at to "
    "from for with without by about after before under over between one two three four five six seven eight nine ten "
    "team help question answer problem customer service number code colour size shape voucher discount percent "
    "euro euros arrive arrived arrives delivery deliver contact email phone call write tell ask give take get keep "
    "make made use used put look show other same both all any some each every first last next only also just never "
    "always because then than as up down out off hand child children birthday present party window door table blue "
    "sent check checked look looked moment minutes hours within until since them us me him her its which while"
).split()
LEXICON = tuple(
    dict.fromkeys((*COLOURS, *SHAPES, *(s + "s" for s in SHAPES), *SIZES, *STATUSES, *NAMES, *SIGNATURES, *WORDS))
)


@dataclass(frozen=True)
class Step:
    """One tool call: why, which tool, its argument, and the argument as a ReWOO plan writes it (`#E1.price`)."""

    thought: str
    tool: str
    argument: str
    planned: str


@dataclass(frozen=True)
class Episode:
    """A question, the calls that answer it and the exact answer."""

    kind: str
    question: str
    steps: tuple[Step, ...]
    answer: str


@dataclass(frozen=True)
class Example:
    """Training text in pieces: (text, learn) pairs. The loss falls only on pieces with `learn` set."""

    kind: str
    pieces: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)


# ---------------------------------------------------------------- questions with the calls that answer them


def _order_step(number: object, planned: str | None = None) -> Step:
    return Step(f"I look up order {number}.", "orders", str(number), planned or str(number))


def _about_order(kind: str, phrasings: tuple[str, ...]) -> Callable[[random.Random, Shop], Episode]:
    def make(rng: random.Random, shop: Shop) -> Episode:
        order = rng.choice(list(shop.orders.values()))
        answer = {
            "status": order.status,
            "owner": order.customer,
            "contents": order.product.name,
            "quantity": str(order.quantity),
        }[kind]
        question = rng.choice(phrasings).format(n=order.number)
        return Episode(kind, question, (_order_step(order.number),), answer)

    return make


def _about_product(kind: str, phrasings: tuple[str, ...]) -> Callable[[random.Random, Shop], Episode]:
    def make(rng: random.Random, shop: Shop) -> Episode:
        item = rng.choice(list(shop.products.values()))
        answer = f"{item.price} euros" if kind == "price" else str(item.stock)
        step = Step(f"I look up the {item.name}.", "catalogue", item.name, item.name)
        question = rng.choice(phrasings).format(p=item.name)
        return Episode(kind, question, (step,), answer)

    return make


def _bill(rng: random.Random, shop: Shop) -> Episode:
    item = rng.choice(list(shop.products.values()))
    n = rng.randint(2, 9)
    questions = (
        f"How much do I pay for {n} pieces of the {item.name}?",
        f"What do {n} pieces of the {item.name} cost?",
        f"I want {n} of the {item.name}. What is the price?",
    )
    question = rng.choice(questions)
    look = Step(f"I look up the {item.name}.", "catalogue", item.name, item.name)
    thought = f"One costs {item.price}, so I multiply by {n}."
    multiply = Step(thought, "calculator", f"{n} * {item.price}", f"{n} * #E1.price")
    return Episode("bill", question, (look, multiply), f"{n * item.price} euros")


def _total_steps(shop: Shop, number: int, first: str = "", at: int = 1) -> tuple[Step, ...]:
    order = shop.orders[number]
    n = order.quantity
    item = shop.products[order.product.name]
    look = Step(f"It is {n} {item.name}, I need the price.", "catalogue", item.name, f"#E{at}.product")
    thought = f"One costs {item.price}, so I multiply by {n}."
    planned = f"#E{at}.quantity * #E{at + 1}.price"
    multiply = Step(thought, "calculator", f"{n} * {item.price}", planned)
    return _order_step(number, first), look, multiply


def _total(rng: random.Random, shop: Shop) -> Episode:
    order = rng.choice(list(shop.orders.values()))
    forms = ("What does order {n} cost?", "How much is order {n} in all?", "What is the total of order {n}?")
    question = rng.choice(forms).format(n=order.number)
    steps = _total_steps(shop, order.number)
    return Episode("total", question, steps, f"{order.quantity * order.product.price} euros")


def _total_with_fee(rng: random.Random, shop: Shop) -> Episode:
    order = rng.choice(list(shop.orders.values()))
    total = order.quantity * order.product.price
    fee = shop.policies["fee"]
    forms = ("What does order {n} cost with shipping?", "What is the total of order {n} with the shipping fee?")
    question = rng.choice(forms).format(n=order.number)
    look = Step(f"The toys cost {total}, I need the shipping fee.", "policy", "fee", "fee")
    add = Step(f"I add {total} and {fee}.", "calculator", f"{total} + {fee}", "#E3.value + #E4.number")
    steps = (*_total_steps(shop, order.number), look, add)
    return Episode("total with fee", question, steps, f"{total + fee} euros")


def _last_order(rng: random.Random, shop: Shop) -> Episode:
    customers = {order.customer for order in shop.orders.values()}
    name = rng.choice(sorted(customers))
    order = [order for order in shop.orders.values() if order.customer == name][-1]
    find = Step(f"I find the last order of {name}.", "customer", name, name)
    look = _order_step(order.number, "#E1.number")
    if rng.random() < 0.5:
        question = rng.choice(("What did {c} order last?", "Which toy is in the last order of {c}?"))
        return Episode("last contents", question.format(c=name), (find, look), order.product.name)
    if rng.random() < 0.6:
        question = rng.choice(("Where is the last order of {c}?", "What is the status of {c}'s last order?"))
        return Episode("last status", question.format(c=name), (find, look), order.status)
    question = rng.choice(("What does the last order of {c} cost?", "How much is {c}'s last order in all?"))
    steps = (find, *_total_steps(shop, order.number, "#E1.number", at=2))
    return Episode("last total", question.format(c=name), steps, f"{order.quantity * order.product.price} euros")


POLICY_QUESTIONS = {
    "returns": (("How many days do I have to return a toy?", "How long can I send goods back?"), "{} days"),
    "warranty": (("How long is a toy covered?", "How many months does the warranty last?"), "{} months"),
    "shipping": (("How long does a parcel take?", "How many days until my parcel arrives?"), "{} days"),
    "fee": (("What does shipping cost?", "How much is the shipping fee?"), "{} euros"),
    "discount": (
        ("What discount do I get for ten or more?", "How many percent off for ten toys?"),
        "{} percent",
    ),
    "gift": (("What does gift wrapping cost?", "How much do you ask for a gift box?"), "{} euros"),
}


def _policy(rng: random.Random, shop: Shop) -> Episode:
    topic = rng.choice(list(POLICY_QUESTIONS))
    questions, answer = POLICY_QUESTIONS[topic]
    step = Step(f"I look up the policy on {topic}.", "policy", topic, topic)
    question = rng.choice(questions)
    return Episode("policy", question, (step,), answer.format(shop.policies[topic]))


def _sum(rng: random.Random, shop: Shop) -> Episode:
    a = rng.randint(2, 99)
    b = rng.randint(2, 99)
    c = rng.randint(2, 9)
    sums = ((f"{a} + {b}", a + b), (f"{c} * {a}", c * a), (f"{a + b} - {b}", a), (f"{c} * {a} + {b}", c * a + b))
    expression, value = rng.choice(sums)
    question = rng.choice(("What is {e}?", "Work out {e}.", "How much is {e}?")).format(e=expression)
    step = Step("I calculate it.", "calculator", expression, expression)
    return Episode("sum", question, (step,), str(value))


MAKERS: dict[str, Callable[[random.Random, Shop], Episode]] = {
    "status": _about_order(
        "status",
        (
            "Where is order {n}?",
            "What is the status of order {n}?",
            "Has order {n} been sent?",
            "Tell me about my order {n}.",
        ),
    ),
    "owner": _about_order(
        "owner", ("Who bought order {n}?", "Whose order is {n}?", "Who is the customer of order {n}?")
    ),
    "contents": _about_order(
        "contents", ("What is in order {n}?", "Which toy is in order {n}?", "What did I buy with order {n}?")
    ),
    "quantity": _about_order(
        "quantity", ("How many toys are in order {n}?", "How many pieces did I buy with order {n}?")
    ),
    "price": _about_product(
        "price", ("What does the {p} cost?", "How much is the {p}?", "What is the price of the {p}?")
    ),
    "stock": _about_product(
        "stock",
        (
            "How many of the {p} are in stock?",
            "How many of the {p} do you have?",
            "What is the stock of the {p}?",
        ),
    ),
    "bill": _bill,
    "total": _total,
    "total with fee": _total_with_fee,
    "last order": _last_order,
    "policy": _policy,
    "sum": _sum,
}


def episode(rng: random.Random, shop: Shop, kind: str | None = None) -> Episode:
    """Draw a question of `kind` (any kind when None) about `shop`."""
    make = MAKERS[kind or rng.choice(list(MAKERS))]
    return make(rng, shop)


def episodes(n: int, seed: int, shop: Shop) -> list[Episode]:
    """`n` questions with distinct wording about `shop`, all kinds in turn."""
    rng = random.Random(seed)
    kinds = list(MAKERS)
    by_question: dict[str, Episode] = {}
    for turn in range(50 * n):
        task = episode(rng, shop, kinds[turn % len(kinds)])
        by_question.setdefault(task.question, task)
        if len(by_question) == n:
            break
    drawn = list(by_question.values())
    rng.shuffle(drawn)
    return drawn


def final_answer(text: str) -> str:
    """What follows the last `Answer:` in a reply, or the whole reply where there is none."""
    last = text.rsplit("Answer:", 1)[-1]
    return last.strip().rstrip(".").strip()


def correct(expected: str, reply: str) -> bool:
    """Exact match of the final answer, ignoring case, spaces at the ends and a final full stop."""
    return final_answer(reply).lower() == expected.lower()


# ---------------------------------------------------------------- how prompts look


def turn(role: str, text: str) -> str:
    """One closed turn of the chat format."""
    return f"<|{role}|>{text}<|end|>"


def prompt(mode: str, question: str) -> str:
    """The text that prisma-lm continues: system line of `mode`, the question, and an open assistant turn."""
    return turn("system", SYSTEM[mode]) + turn("user", question) + "<|assistant|>"


def taught(kind: str, given: str, reply: str) -> Example:
    """An example with one piece to read and one to learn, the end of the turn behind it."""
    return Example(kind, ((given, False), (f"{reply}<|end|>", True)))


def exchange(kind: str, request: str, reply: str) -> Example:
    """A user's turn without a system turn before it, and the reply to learn."""
    asked = turn("user", request) + "<|assistant|>"
    return taught(kind, asked, reply)


def tool_system(order: list[str]) -> str:
    """The system turn for function calling. The chat template writes the same text from JSON schemas."""
    lines = [f"\n{name}({SIGNATURES[name][0]})" for name in order]
    return "Call a function or answer. Functions:" + "".join(lines)


def call_text(tool: str, argument: str) -> str:
    """One function call as JSON behind the marker token."""
    name, kind, _ = SIGNATURES[tool]
    value = int(argument) if kind == "integer" else argument
    call = {"name": tool, "arguments": {name: value}}
    return "<|call|>" + json.dumps(call)


def _observe(rng: random.Random, toolbox: Toolbox, step: Step, unreliable: float) -> Iterator[tuple[bool, str]]:
    """The observations a step meets: now and then a time-out first, then the real result."""
    if rng.random() < unreliable:
        yield False, "error: timeout"
    yield True, toolbox(step.tool, step.argument).text


def react(rng: random.Random, toolbox: Toolbox, task: Episode, unreliable: float = 0.05, advice: str = "") -> Example:
    """A ReAct trace (arXiv 2210.03629). Observations come from the tools, so they are read, not learned.

    `advice` is what the model told itself after an earlier failure.
    """
    pieces = [(prompt("react", task.question + advice), False)]
    for step in task.steps:
        thought = step.thought
        for fine, seen in _observe(rng, toolbox, step, unreliable):
            pieces.append((f"Thought: {thought}\nAction: {step.tool}[{step.argument}]\nObservation:", True))
            pieces.append((f" {seen}\n", False))
            if not fine:
                thought = "The tool failed, I try again."
    pieces.append((f"Thought: I know the answer.\nAnswer: {task.answer}<|end|>", True))
    return Example("react", tuple(pieces))


def function_calls(rng: random.Random, toolbox: Toolbox, task: Episode, unreliable: float = 0.05) -> Example:
    """The same calls as JSON, each in a turn of its own, then the answer."""
    names = rng.sample(list(SIGNATURES), len(SIGNATURES))
    head = turn("system", tool_system(names)) + turn("user", task.question)
    pieces = [(head, False)]
    for step in task.steps:
        call = call_text(step.tool, step.argument)
        for _, seen in _observe(rng, toolbox, step, unreliable):
            pieces += [("<|assistant|>", False), (f"{call}<|end|>", True)]
            pieces.append((turn("tool", seen), False))
    pieces += [("<|assistant|>", False), (f"{task.answer}<|end|>", True)]
    return Example("function", tuple(pieces))


def plan_text(task: Episode) -> str:
    """A ReWOO plan (arXiv 2305.18323): every call at once, results named #E1, #E2, ..."""
    lines = [f"#E{i} = {step.tool}[{step.planned}]" for i, step in enumerate(task.steps, 1)]
    return "\n".join(lines)


def solve_prompt(question: str, evidence: list[tuple[str, str]]) -> str:
    """The solver's turn of ReWOO: the question with what each call returned."""
    lines = [f"\n#E{i} = {call}: {seen}" for i, (call, seen) in enumerate(evidence, 1)]
    return prompt("solve", question + "".join(lines))


def plan(rng: random.Random, toolbox: Toolbox, task: Episode) -> Example:
    return taught("plan", prompt("plan", task.question), plan_text(task))


def solve(rng: random.Random, toolbox: Toolbox, task: Episode) -> Example:
    evidence = [(f"{step.tool}[{step.argument}]", _seen(toolbox, step)) for step in task.steps]
    return taught("solve", solve_prompt(task.question, evidence), f"Answer: {task.answer}")


def _seen(toolbox: Toolbox, step: Step) -> str:
    """What a step's tool returns."""
    return toolbox(step.tool, step.argument).text


def direct(rng: random.Random, toolbox: Toolbox, task: Episode) -> Example:
    """The question without tools. The answer cannot be known, so what is learned here is to guess well."""
    return taught("direct", prompt("direct", task.question), f"Answer: {task.answer}")


# ---------------------------------------------------------------- planner and executor, reflections


def goal(step: Step) -> str:
    """A step in a planner's words, before anything is known: "Ask catalogue about the product."."""
    about = re.sub(r"#E[0-9]+[.]", "the ", step.planned)
    return f"Ask {step.tool} about {about}."


def planner(rng: random.Random, toolbox: Toolbox, task: Episode) -> Example:
    """The planner's turn of plan-and-execute (after arXiv 2305.04091): the steps in words, numbered."""
    steps = [f"{i}. {goal(step)}" for i, step in enumerate(task.steps, 1)]
    return taught("planner", prompt("planner", task.question), "\n".join(steps))


def executor_prompt(question: str, done: list[tuple[str, str]], now: str) -> str:
    """The executor's turn: the question, each goal with what was found, and the goal to work on."""
    lines = [f"\n{i}. {what} {seen}" for i, (what, seen) in enumerate(done, 1)]
    return prompt("executor", f"{question}{''.join(lines)}\n{len(done) + 1}. {now}")


def executor(rng: random.Random, toolbox: Toolbox, task: Episode) -> Example:
    """One of the executor's turns: a tool call for the goal at hand or, when all goals are done, the answer."""
    at = rng.randint(0, len(task.steps))
    done = [(goal(step), _seen(toolbox, step)) for step in task.steps[:at]]
    if at == len(task.steps):
        now = "Answer."
        reply = f"Answer: {task.answer}"
    else:
        step = task.steps[at]
        now = goal(step)
        reply = f"Action: {step.tool}[{step.argument}]"
    return taught("executor", executor_prompt(task.question, done, now), reply)


@dataclass(frozen=True)
class Slip:
    """A failed attempt: its calls, its wrong answer, and the reflection that names what went wrong."""

    calls: tuple[tuple[str, str], ...]
    answer: str
    reflection: str


def slip(rng: random.Random, toolbox: Toolbox, task: Episode) -> Slip:
    """An attempt at `task` with one mistake: a wrong tool, a wrong number, or an end that comes too early."""
    calls = [(step.tool, step.argument) for step in task.steps]
    kind = rng.choice(("tool", "number", "early"))
    if kind == "early" and len(calls) > 1:
        *begun, (left_out, _) = calls
        last = toolbox(*begun[-1]).text.split()[-1]
        return Slip(tuple(begun), last, f"I stopped too early. Next time I also use {left_out}.")
    tool, argument = calls[0]
    if kind == "number" and tool == "orders":
        wrong = _with_a_wrong_digit(rng, argument)
        reflection = f"I asked for {wrong}, not for {argument}. Next time I use {argument}."
        return Slip(((tool, wrong),), "unknown", reflection)
    useless = [name for name in SIGNATURES if not toolbox(name, argument).ok]
    other = rng.choice(useless)
    return Slip(((other, argument),), "unknown", f"Next time I use {tool}, not {other}.")


def _with_a_wrong_digit(rng: random.Random, number: str) -> str:
    """An order number with one of its four digits exchanged."""
    at = rng.randrange(4)
    others = [digit for digit in "123456789" if digit != number[at]]
    return number[:at] + rng.choice(others) + number[at + 1 :]


def reflect_prompt(question: str, calls: list[tuple[str, str]], answer: str) -> str:
    """The turn in which the model looks back: the question, "tool[argument]: result" lines, the wrong answer."""
    results = [f"{call}: {seen}" for call, seen in calls]
    lines = (question, *results, f"Answer: {answer}")
    return prompt("reflect", "\n".join(lines))


def reflect(rng: random.Random, toolbox: Toolbox, task: Episode) -> Example:
    """A reflection after a failure (Reflexion, arXiv 2303.11366)."""
    failed = slip(rng, toolbox, task)
    calls = [(f"{name}[{argument}]", toolbox(name, argument).text) for name, argument in failed.calls]
    head = reflect_prompt(task.question, calls, failed.answer)
    return taught("reflect", head, f"Reflection: {failed.reflection}")


def retry(rng: random.Random, toolbox: Toolbox, task: Episode) -> Example:
    """The next attempt: a ReAct trace with the reflection under the question."""
    advice = f"\nReflection: {slip(rng, toolbox, task).reflection}"
    return Example("retry", react(rng, toolbox, task, advice=advice).pieces)


# ---------------------------------------------------------------- arithmetic, reading, prose and copying


@dataclass(frozen=True)
class Sum:
    """A story with prices: the question, the worked steps and the answer."""

    question: str
    steps: str
    answer: str


def shopping_sum(rng: random.Random) -> Sum:
    """Two purchases to add up, for example 3 * 12 + 4 * 7."""
    name = rng.choice(NAMES)
    first, second = rng.sample(SHAPES, 2)
    a, b = (rng.randint(2, 9) for _ in range(2))
    p, q = (rng.randint(3, 49) for _ in range(2))
    questions = (
        f"{name} buys {a} {first}s for {p} euros each and {b} {second}s for {q} euros each. What is the total?",
        f"One {first} costs {p} euros and one {second} costs {q} euros. What do {a} {first}s and {b} {second}s cost?",
    )
    question = rng.choice(questions)
    one_cost, other_cost = a * p, b * q
    total = one_cost + other_cost
    steps = f"{a} * {p} = {one_cost}. {b} * {q} = {other_cost}. {one_cost} + {other_cost} = {total}. "
    return Sum(question, steps, str(total))


def worked(rng: random.Random) -> Example:
    task = shopping_sum(rng)
    return taught("worked", prompt("steps", task.question), f"{task.steps}Answer: {task.answer}")


def unworked(rng: random.Random) -> Example:
    task = shopping_sum(rng)
    return taught("unworked", prompt("direct", task.question), f"Answer: {task.answer}")


def number_facts(rng: random.Random) -> Example:
    """Rows of single products and sums, the facts that worked steps are made of."""
    pieces: list[tuple[str, bool]] = []
    for _ in range(rng.randint(4, 10)):
        a = rng.randint(2, 9)
        p = rng.randint(3, 49)
        b = rng.randint(6, 441)
        q = rng.randint(2, 441)
        if rng.random() < 0.5:
            pieces += [(f"{a} * {p} =", False), (f" {a * p}. ", True)]
        else:
            pieces += [(f"{b} + {q} =", False), (f" {b + q}. ", True)]
    return Example("facts", tuple(pieces))


def _fact(rng: random.Random, item: Product) -> str:
    forms = (
        "The {0.name} costs {0.price} euros, and we have {0.stock} in stock.",
        "You can buy the {0.name} for {0.price} euros. There are {0.stock} left.",
        "Our {0.name} is {0.price} euros.",
    )
    return rng.choice(forms).format(item)


def reading(rng: random.Random, shop: Shop) -> Example:
    """A few facts and a question on one of them: the answer has to be read, not remembered."""
    items = rng.sample(list(shop.products.values()), rng.randint(2, 4))
    orders = rng.sample(list(shop.orders.values()), 2)
    facts = [_fact(rng, item) for item in items]
    facts += [f"Order {o.number} of {o.customer}: {o.quantity} {o.product.name}, {o.status}." for o in orders]
    rng.shuffle(facts)
    item, order = items[0], orders[0]
    questions = (
        (f"What does the {item.name} cost?", f"{item.price} euros"),
        (f"Where is order {order.number}?", order.status),
        (f"Who bought order {order.number}?", order.customer),
        (f"What is in order {order.number}?", order.product.name),
    )
    question, answer = rng.choice(questions)
    text = "\n".join((*facts, question))
    return taught("reading", prompt("read", text), f"Answer: {answer}")


def prose(rng: random.Random, shop: Shop) -> Example:
    """Plain talk about the shop, in the voice of a catalogue."""
    order = rng.choice(list(shop.orders.values()))
    item, other = rng.sample(list(shop.products.values()), 2)
    lines = (
        _fact(rng, item),
        f"{order.customer} bought {order.quantity} {order.product.name} with order {order.number}. "
        f"The parcel was {order.status}.",
        f"A {item.shape} is a good present for a birthday. {order.customer} likes the colour {item.colour}.",
        f"The {other.size} {other.shape} is also made in {other.colour}, {rng.choice(COLOURS)} and {item.colour}.",
        f"I was waiting for my {item.name}, and today it arrived. "
        f"The box was {rng.choice(('open', 'broken', 'fine'))}.",
        f"Toys that are broken or lost will be sent again. Please write to our team with the number {order.number}.",
    )
    chosen = rng.sample(lines, 3)
    return Example("prose", ((" ".join(chosen) + "<|end|>", True),))


def _word(rng: random.Random) -> str:
    if rng.random() < 0.25:
        return str(rng.randint(0, 9999))
    return rng.choice(LEXICON)


def copying(rng: random.Random) -> Example:
    """A row of random words twice. Only the second row can be predicted, by copying (arXiv 2209.11895)."""
    words = [_word(rng) for _ in range(rng.randint(5, 24))]
    row = " ".join(words)
    return taught("copying", f"{row}\n", row)


def recall(rng: random.Random) -> Example:
    """Pairs of words, then some of the first words again: the partner has to be looked up."""
    partners: dict[str, str] = {}
    for _ in range(rng.randint(3, 9)):
        key = _word(rng)
        partners[key] = f"{_word(rng)} {_word(rng)}"
    lines = [f"{key}: {value}\n" for key, value in partners.items()]
    pieces = [("".join(lines), False)]
    for key, value in rng.choices(list(partners.items()), k=4):
        pieces += [(f"{key}:", False), (f" {value}\n", True)]
    return Example("recall", tuple(pieces))


# Shares of the training mixture, first half. The tokenizer is trained on the same mixture.
SHARES = {
    "react": 0.30,
    "function": 0.14,
    "plan": 0.05,
    "solve": 0.05,
    "direct": 0.03,
    "worked": 0.12,
    "unworked": 0.03,
    "facts": 0.08,
    "reading": 0.07,
    "prose": 0.03,
    "copying": 0.05,
    "recall": 0.05,
}
# Second half: tool use is learned by then, arithmetic and reading are what is left.
HARDER = SHARES | {"react": 0.22, "function": 0.20, "worked": 0.18, "facts": 0.12, "reading": 0.12, "copying": 0.02}
# Last part: what agents of other kinds need. Shares of what is known by then are lower.
SKILLS = HARDER | {
    "react": 0.16, "function": 0.12, "worked": 0.15, "reading": 0.15, "recall": 0.06,
    "planner": 0.04, "executor": 0.07, "reflect": 0.06, "retry": 0.05,
}  # fmt: skip
# Before all: copying, which everything else builds on.
DRILLS = {"copying": 0.35, "recall": 0.35, "reading": 0.2, "facts": 0.1}

_ON_EPISODES = {
    "react": react, "function": function_calls, "plan": plan, "solve": solve, "direct": direct,
    "planner": planner, "executor": executor, "reflect": reflect, "retry": retry,
}  # fmt: skip
_ALONE = {"worked": worked, "unworked": unworked, "facts": number_facts, "copying": copying, "recall": recall}
_ON_SHOP = {"reading": reading, "prose": prose}


def example(rng: random.Random, shop: Shop, toolbox: Toolbox, kind: str) -> Example:
    """One training example of `kind`, a key of SHARES or of SKILLS."""
    if kind in _ALONE:
        return _ALONE[kind](rng)
    if kind in _ON_SHOP:
        return _ON_SHOP[kind](rng, shop)
    task = episode(rng, shop)
    return _ON_EPISODES[kind](rng, toolbox, task)


def mixture(seed: int, shares: dict[str, float] = SHARES) -> Iterator[Example]:
    """Endless training examples. Every 200 come from a fresh shop, so no price can be learned by heart."""
    rng = random.Random(seed)
    while True:
        shop = make_shop(rng.randrange(10**6, 10**9))
        toolbox = Toolbox(open_database(shop))
        kinds = rng.choices(list(shares), list(shares.values()), k=200)
        for kind in kinds:
            yield example(rng, shop, toolbox, kind)
        toolbox.database.close()
