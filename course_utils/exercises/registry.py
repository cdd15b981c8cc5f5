"""Which exercises and quizzes there are: whatever the folders unit_* beside this file list."""

import functools
import importlib
import inspect
import pkgutil
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "course_utils.exercises"
DIFFICULTIES = ("easy", "medium", "hard")


def replaced() -> str:
    """A part of the checker that a notebook's cell has put its own in the place of; empty if there is none.

    It finds what was put there by mistake or by a simple trick. Who owns a kernel can change everything in it.
    """
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(f"{PACKAGE}."):
            for name, part in _parts(module):
                part = part.fget if isinstance(part, property) else part
                if getattr(part, "__module__", None) == "__main__":
                    return f"{module_name.removeprefix(PACKAGE + '.')}.{name}"
    return ""


def _parts(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a module holds, and what the classes of this package in it hold."""
    for name, part in list(vars(module).items()):
        yield name, part
        if inspect.isclass(part) and part.__module__.startswith(PACKAGE):
            for inner, value in list(vars(part).items()):
                yield f"{name}.{inner}", value


def unit_of(name: str) -> str:
    """The unit of an exercise or a quiz: "7.1" for "7.1.fusion"."""
    return name.rpartition(".")[0]


def _folder(unit: str) -> str:
    return f"unit_{unit.replace('.', '_')}"


@dataclass(frozen=True)
class Exercise:
    """An exercise. The last part of `name` is the function's name, also in the unit's file of solutions.

    `stub` is what the student's cell holds, word for word. `hints` lead from the idea almost to the code,
    `notice` is said on success, `also` names functions that the solution needs and that are shown with it.
    """

    name: str
    title: str
    difficulty: str
    minutes: int
    stub: Callable
    hints: tuple[str, ...]
    notice: str
    also: tuple[str, ...] = ()

    @property
    def stub_source(self) -> str:
        """The text of the stub cell."""
        return inspect.getsource(self.stub)

    @property
    def reference(self) -> Callable:
        """The course's own solution."""
        return getattr(self._solutions(), self.stub.__name__)

    @property
    def reference_parts(self) -> list[Callable]:
        """The reference, after the functions that it calls."""
        names = [*self.also, self.stub.__name__]
        return [getattr(self._solutions(), name) for name in names]

    @property
    def reference_source(self) -> str:
        """What `solution` shows."""
        return "\n\n".join(map(inspect.getsource, self.reference_parts))

    @property
    def examine(self) -> Callable[[Any], None]:
        """The diagnosing test: takes a `diagnosis.Attempt` and raises `diagnosis.Wrong`."""
        return getattr(self._solutions(), f"examine_{self.stub.__name__}")

    @property
    def examine_fresh(self) -> Callable[[Any, random.Random], None]:
        """More examples, for grading: takes a `diagnosis.Attempt` and what draws them, raises `diagnosis.Wrong`."""
        return getattr(self._module("fresh"), f"fresh_{self.stub.__name__}")

    def _solutions(self) -> ModuleType:
        return self._module("solutions")

    def _module(self, name: str) -> ModuleType:
        """A module of the unit's folder; imported when needed, because it brings torch."""
        return importlib.import_module(f"{PACKAGE}.{_folder(unit_of(self.name))}.{name}")


@dataclass(frozen=True)
class Answer:
    """One answer of a quiz, and what is said to whoever chooses it."""

    text: str
    explanation: str
    right: bool = False


@dataclass(frozen=True)
class Quiz:
    """A question with answers, one of which is right."""

    name: str
    question: str
    answers: tuple[Answer, ...]

    @property
    def letters(self) -> dict[str, Answer]:
        """The answers by letter, a, b, c ..."""
        return dict(zip("abcdefgh", self.answers, strict=False))


@functools.cache
def _units() -> tuple[ModuleType, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    folders = [name for name in names if name.startswith("unit_")]
    return tuple(importlib.import_module(f"{PACKAGE}.{folder}.asked") for folder in folders)


def exercises() -> dict[str, Exercise]:
    """Every exercise by name, in the order of the course."""
    known: dict[str, Exercise] = {}
    for unit in _units():
        known |= {task.name: task for task in unit.EXERCISES}
    return known


def quizzes() -> dict[str, Quiz]:
    """Every quiz by name, in the order of the course."""
    known: dict[str, Quiz] = {}
    for unit in _units():
        known |= {task.name: task for task in unit.QUIZZES}
    return known


def exercise(name: str) -> Exercise:
    """The exercise `name`; ValueError with the known ones for another name."""
    return _find("exercise", name, exercises())


def quiz(name: str) -> Quiz:
    """The quiz `name`; ValueError with the known ones for another name."""
    return _find("quiz", name, quizzes())


def _find(kind: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"There is no {kind} {name!r}. There are {', '.join(known)}.")
    return known[name]
