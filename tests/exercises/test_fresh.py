"""Fresh examples: right functions pass them for every seed, and what was learned by heart or is wrong does not."""

import io
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_exercises import PLANTED
from test_exercises_styles import STYLES

from course_utils.exercises import diagnosis, registry, wire

EXERCISES = registry.exercises()
WITHOUT = ("7.4", "7.5")  # units that have no fresh examples yet
FRESH = [name for name in EXERCISES if registry.unit_of(name) not in WITHOUT]
every_exercise = pytest.mark.parametrize("name", FRESH)


class Plain(pickle.Pickler):
    """Tensors as their numbers: torch's own pickles tell where in memory they stood."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return torch.tensor, (value.tolist(), value.requires_grad)
        return NotImplemented


def plain(inputs: tuple) -> bytes:
    """The same for the same inputs."""
    stream = io.BytesIO()
    Plain(stream).dump(inputs)
    return stream.getvalue()


class Here:
    """Answers as the worker does, without a process: what goes in and what comes out is copied."""

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.calls: list[bytes] = []  # all inputs

    def __call__(self, inputs: tuple) -> tuple:
        given = pickle.loads(pickle.dumps(inputs))
        self.calls.append(plain(given))
        try:
            result = self.function(*given)
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
            return ("raised", type(error).__name__, kinds, str(error), not error.args, [])
        return ("returned", wire.unpack(wire.pack(result)), list(given))


def attempt(name: str, function: Callable) -> diagnosis.Attempt:
    yours = diagnosis.Attempt(function, EXERCISES[name].stub)
    yours.run = Here(function)
    return yours


def passes(name: str, function: Callable, seed: int) -> bool:
    try:
        EXERCISES[name].examine_fresh(attempt(name, function), random.Random(seed))
    except (diagnosis.Wrong, diagnosis.NotAttempted):
        return False
    return True


def drawn(name: str, seed: int) -> list[bytes]:
    """The fresh examples of a seed."""
    yours = attempt(name, EXERCISES[name].reference)
    EXERCISES[name].examine_fresh(yours, random.Random(seed))
    return yours.run.calls


def by_heart(name: str) -> Callable[..., Any]:
    """A function that knows what the notebook's examples give, and says the first of it to all else."""
    reference = EXERCISES[name].reference
    answers: dict[bytes, Any] = {}

    def learn(*inputs: Any) -> Any:
        asked = plain(inputs)
        try:
            answers[asked] = reference(*inputs)
        except ValueError as error:  # is asked for, too
            answers[asked] = error
            raise
        return answers[asked]

    def recite(*inputs: Any) -> Any:
        anything = next(iter(answers.values()))
        answer = answers.get(plain(inputs), anything)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    EXERCISES[name].examine(attempt(name, learn))
    EXERCISES[name].examine(attempt(name, recite))
    return recite


@every_exercise
def test_the_reference_passes_whatever_is_drawn(name: str) -> None:
    for seed in range(20):
        EXERCISES[name].examine_fresh(attempt(name, EXERCISES[name].reference), random.Random(seed))


@every_exercise
def test_the_seed_decides_the_examples(name: str) -> None:
    assert drawn(name, 1) == drawn(name, 1) != drawn(name, 2)
    assert 3 <= len(drawn(name, 1)) <= 8


@every_exercise
def test_what_was_learned_by_heart_fails(name: str) -> None:
    recite = by_heart(name)
    for seed in range(5):
        assert not passes(name, recite, seed)


@every_exercise
def test_other_styles_pass(name: str) -> None:
    for function in STYLES[name]:
        for seed in range(3):
            EXERCISES[name].examine_fresh(attempt(name, function), random.Random(seed))


@pytest.mark.parametrize("unit", sorted({registry.unit_of(name) for name in FRESH}))
def test_most_planted_mistakes_are_caught_by_fresh_examples_alone(unit: str) -> None:
    missed, total = [], 0
    for name in FRESH:
        if registry.unit_of(name) == unit:
            planted = PLANTED[name]
            total += len(planted)
            missed += [(name, words) for wrong, words in planted if passes(name, wrong, seed=3)]
    print(f"{unit}: {len(missed)} of {total} missed: {missed}")
    assert len(missed) <= 0.3 * total, missed
