"""Toolboxes around another one: flaky, guarded, down for a while, talkative, tidied, persistent."""

import random
import re
from collections.abc import Iterable
from dataclasses import replace

from course_utils.agents.loop import Tools
from course_utils.prisma.shop import TOPICS
from course_utils.prisma.tools import Result, failed


class Flaky:
    """A toolbox whose calls fail with a time-out now and then: `failing` is the share, from 0 to 1."""

    def __init__(self, toolbox: Tools, failing: float, seed: int = 0) -> None:
        self.toolbox, self.failing, self.rng = toolbox, failing, random.Random(seed)

    def __call__(self, name: str, argument: str) -> Result:
        return failed("timeout") if self.rng.random() < self.failing else self.toolbox(name, argument)


class Guarded:
    """A toolbox whose results can't pass for the model's lines: no breaks, markers, keywords."""

    def __init__(self, toolbox: Tools) -> None:
        self.toolbox = toolbox

    def __call__(self, name: str, argument: str) -> Result:
        result = self.toolbox(name, argument)
        plain = re.sub(r"<\|\w*\|>|\b(Thought|Action|Observation|Answer):", " ", result.text)
        return replace(result, text=" ".join(plain.split()))


class Outage:
    """A toolbox in which some order numbers time out: the first `calls` look-ups of each; then all is well again."""

    def __init__(self, toolbox: Tools, numbers: Iterable[str], calls: int) -> None:
        self.toolbox = toolbox
        self.left = dict.fromkeys(numbers, calls)

    def __call__(self, name: str, argument: str) -> Result:
        if name != "orders" or not self.left.get(argument):
            return self.toolbox(name, argument)
        self.left[argument] -= 1
        return failed("timeout")


class Remarking:
    """A toolbox that says more than it did: a `remark` behind every record. Its fields are as before."""

    def __init__(self, toolbox: Tools, remark: str) -> None:
        self.toolbox, self.remark = toolbox, remark

    def __call__(self, name: str, argument: str) -> Result:
        result = self.toolbox(name, argument)
        spoken = result.ok and name != "calculator"
        return replace(result, text=result.text + self.remark) if spoken else result


FORMS = {
    "orders": "order {asked}: {quantity} {product} for {customer}, {status}",
    "catalogue": "{asked}: {price} euros, {stock} in stock",
    "customer": "{asked}: last order {number}",
}


class Tidied:
    """A toolbox whose results are written anew from their fields, in the form the model knows."""

    def __init__(self, toolbox: Tools) -> None:
        self.toolbox = toolbox

    def __call__(self, name: str, argument: str) -> Result:
        result = self.toolbox(name, argument)
        form = TOPICS.get(argument) if name == "policy" else FORMS.get(name)
        if not result.ok or form is None:
            return result
        number = result.fields.get("number")  # what the {} of a policy stands for
        text = form.format(number, asked=argument, **result.fields)
        return replace(result, text=text)


class Retrying:
    """A toolbox that asks again after a time-out, `tries` times in all. Other errors are answers."""

    def __init__(self, toolbox: Tools, tries: int = 3) -> None:
        if tries < 1:
            raise ValueError(f"{tries} tries: a toolbox needs one at least")
        self.toolbox, self.tries = toolbox, tries

    def __call__(self, name: str, argument: str) -> Result:
        for _ in range(self.tries):
            result = self.toolbox(name, argument)
            if result != failed("timeout"):
                break
        return result
