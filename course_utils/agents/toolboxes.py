"""Toolboxes around another one: a flaky one, and a guarded one."""

import random
import re
from dataclasses import replace

from course_utils.agents.loop import Tools
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
