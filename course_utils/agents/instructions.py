"""What an agent is told: its tools, the form of its answer, an example."""

import re
from typing import TYPE_CHECKING

from course_utils.prisma import text
from course_utils.prisma.shop import TOPICS
from course_utils.prisma.tools import SIGNATURES

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


# What models that were not trained on Prisma are told. prisma-lm knows its formats from training.
# No answer stands in the form: a small model would copy it, and "14 days" looks like an answer.
_FORMAT = (
    "Give the shortest answer: a price as a number and 'euros', a time as a number and its unit, "
    "otherwise the number, the status, the name or the product alone."
)
# Two kinds of question: after one example alone, small models work out its sum for every question.
_EXAMPLE = """Two examples. Their numbers are made up: take yours from the question and from what you observe.
Question: What is the stock of the large white cone?
Thought: I look up the large white cone.
Action: catalogue[large white cone]
Observation: large white cone: 30 euros, 7 in stock
Thought: I know the answer.
Answer: 7

Question: What does order 1234 cost?
Thought: I look up order 1234.
Action: orders[1234]
Observation: order 1234: 3 small red cube for Ada, shipped
Thought: It is 3 small red cube, I need the price.
Action: catalogue[small red cube]
Observation: small red cube: 12 euros, 40 in stock
Thought: One costs 12, so I multiply by 3.
Action: calculator[3 * 12]
Observation: 36
Thought: I know the answer.
Answer: 36 euros"""
EXAMPLE_CALLS = set(re.findall(r"Action: (\w+)\[(.*)\]", _EXAMPLE))  # a small model may repeat them for any question
_PLAN_EXAMPLE = """Example:
Question: What does order 1234 cost?
#E1 = orders[1234]
#E2 = catalogue[#E1.product]
#E3 = calculator[#E1.quantity * #E2.price]"""
_TOOLS = "\n".join(f"- {name}[{argument}]: {what}" for name, (argument, _, what) in SIGNATURES.items())
INSTRUCTIONS = {
    "react": f"""You answer questions about the toy shop Prisma with tools:
{_TOOLS}
The policy topics are {", ".join(TOPICS)}.
Write one Thought line and one Action line, then wait for the Observation line. Repeat as often as you need.
When you know the answer, write an Answer line. {_FORMAT}
{_EXAMPLE}""",
    "plan": f"""You plan all tool calls that answer a question about the toy shop Prisma:
{_TOOLS}
The policy topics are {", ".join(TOPICS)}.
Write one line for each call and nothing else. A later call can use what an earlier one found: orders gives
product, quantity, customer, status; catalogue gives price, stock; customer and policy give number;
calculator gives value.
{_PLAN_EXAMPLE}""",
    "solve": f"Answer the question from the evidence. Write one line: 'Answer: ...'. {_FORMAT}",
    "direct": "Answer the question about the toy shop Prisma at once; guess if you have to. "
    f"Write one line: 'Answer: ...'. {_FORMAT}",
    "calls": f"You answer questions about the toy shop Prisma by calling functions, one at a time. {_FORMAT}",
}


# The first word of a reply, written for models that would otherwise chat: SmolLM2-135M never wrote a Thought line by
# itself. prisma-lm writes its own from training.
_BEGINNINGS = {"react": "Thought:", "plan": "#E1 =", "solve": "Answer:", "direct": "Answer:"}


def beginning(chat: "Chat", mode: str) -> str:
    """How each reply in `mode` begins, put into the model's mouth; "" for a model that was trained on the mode."""
    return "" if chat.tier == "bundled" else _BEGINNINGS[mode]


def opening(chat: "Chat", mode: str, question: str) -> str:
    """The prompt that starts an agent: Prisma's own format, or instructions for a general chat model."""
    if chat.tier == "bundled":
        return text.prompt(mode, question)
    return chat.prompt([{"role": "system", "content": INSTRUCTIONS[mode]}, {"role": "user", "content": question}])
