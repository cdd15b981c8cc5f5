"""ReWOO (Xu et al. 2023, arXiv 2305.18323): the whole plan first, then the tools."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.agents.instructions import beginning, opening
from course_utils.agents.loop import Step, Tools, Trace, think, use
from course_utils.agents.react import answer_all
from course_utils.models.inputs import as_texts
from course_utils.prisma.tools import Result, failed

# The lines of a plan: #E1 = tool[argument]; in an argument #E1.price stands for a field of an earlier result.
PLANNED = re.compile(r"^\s*#(E\d+) *= *(\w+)\[(.*)\]\s*$", re.M)
FIELD = re.compile(r"#(E\d+)\.(\w+)")

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


def run_rewoo(chat: "Chat", toolbox: Tools, questions: Sequence[str], max_steps: int = 8) -> list[Trace]:
    """Plan every call at once, run the plan, answer from the evidence (ReWOO, arXiv 2305.18323)."""
    questions = as_texts(questions, "questions")
    traces = [Trace(question, opening(chat, "plan", question)) for question in questions]
    plans = think(chat, traces, stop=(), begin=beginning(chat, "plan"))
    for trace, plan in zip(traces, plans, strict=True):
        trace.steps = execute(plan, toolbox, max_steps)
        lines = [f"\n#E{i} = {s.tool}[{s.argument}]: {s.observation}" for i, s in enumerate(trace.steps, 1)]
        trace.prompt = opening(chat, "solve", trace.question + "".join(lines))
    return answer_all(chat, traces, "solve")


def execute(plan: str, toolbox: Tools, max_steps: int) -> list[Step]:
    """Run the lines of a plan in order. `#E1.price` stands for the field `price` of the first result."""
    results: dict[str, Result] = {}
    steps = []
    for name, tool, planned in PLANNED.findall(plan)[:max_steps]:
        argument = FIELD.sub(lambda m: _field(results, *m.groups()), planned)
        missing = re.search(r"#E\d+", argument)
        results[name] = failed(f"no {missing.group()}") if missing else use(toolbox, tool, argument)
        steps.append(Step("", "" if missing else tool, argument, results[name].text))
    return steps


def _field(results: dict[str, Result], name: str, key: str) -> str:
    found = results[name].fields.get(key) if name in results else None
    return f"#{name}.{key}" if found is None else found
