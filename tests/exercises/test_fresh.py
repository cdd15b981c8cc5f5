"""Fresh examples: right functions pass them for every seed, and what was learned by heart or is wrong does not."""

import copy
import io
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_exercises import PLANTED
from test_exercises_styles import STYLES

from course_utils.exercises import diagnosis, registry, sandbox, wire

FOLDER = Path(registry.__file__).parent
EXERCISES = registry.exercises()
every_exercise = pytest.mark.parametrize("name", EXERCISES)


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
        given = copy.deepcopy(inputs)
        self.calls.append(plain(given))
        try:
            result = self.function(*given)
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
            return ("raised", type(error).__name__, kinds, str(error), not error.args, [])
        return ("returned", wire.unpack(wire.pack(result)), list(given))


def attempt(name: str, function: Callable) -> diagnosis.Attempt:
    return diagnosis.Attempt(Here(function), EXERCISES[name].stub)


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
    """A function that knows what the notebook's examples give, and says to all else what the nearest of them gives."""
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
        asked = plain(inputs)
        nearest = min(answers, key=lambda known: (known != asked, abs(len(known) - len(asked))))
        answer = answers[nearest]
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
def test_no_answer_goes_where_a_students_function_runs(name: str) -> None:
    """What crosses is a pickle: it names the modules that its functions come from."""
    yours = attempt(name, EXERCISES[name].reference)
    EXERCISES[name].examine(yours)
    for call in (*yours.run.calls, *drawn(name, 1)):
        assert b".solutions" not in call and b".fresh" not in call


def test_functions_among_the_inputs_reach_another_process() -> None:
    names = [name for name in EXERCISES if any(b".inputs" in call for call in drawn(name, 1))]
    assert {"7.1.zero_shot", "7.2.act", "7.2.approval_gate", "7.3.beam_over_thoughts"} <= set(names)
    one_of_a_unit = {registry.unit_of(name): name for name in names}  # each starts a Python, for a second or more
    for name in one_of_a_unit.values():
        function = STYLES[name][0]
        yours = diagnosis.Attempt(sandbox.Run(function), EXERCISES[name].stub)
        with sandbox.alone():
            EXERCISES[name].examine_fresh(yours, random.Random(1))
            yours.end(print)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("unit_*/inputs.py")), ids=lambda path: path.parent.name)
def test_what_makes_inputs_knows_no_answer(path: Path) -> None:
    text = path.read_text("utf-8")
    assert "solutions" not in text and "fresh" not in text


@every_exercise
def test_other_styles_pass(name: str) -> None:
    for function in STYLES[name]:
        for seed in range(3):
            EXERCISES[name].examine_fresh(attempt(name, function), random.Random(seed))


def test_the_alphabet_of_equal_ids_is_everybodys() -> None:
    """Whether capitals come first, the stub leaves open."""

    def capitals_count_as_small(rankings: list[list[str]], k: int = 60) -> list[str]:
        one_order = EXERCISES["7.2.rank_fusion"].reference
        small = {one.lower(): one for ranking in rankings for one in ranking}
        lowered = [[one.lower() for one in ranking] for ranking in rankings]
        return [small[one] for one in one_order(lowered, k)]

    assert all(passes("7.2.rank_fusion", capitals_count_as_small, seed) for seed in range(20))


@pytest.mark.parametrize("unit", sorted({registry.unit_of(name) for name in EXERCISES}))
def test_most_planted_mistakes_are_caught_by_fresh_examples_alone(unit: str) -> None:
    missed, total = [], 0
    for name in EXERCISES:
        if registry.unit_of(name) == unit:
            planted = PLANTED[name]
            total += len(planted)
            missed += [(name, words) for wrong, words in planted if passes(name, wrong, seed=3)]
    print(f"{unit}: {len(missed)} of {total} missed: {missed}")
    assert len(missed) <= 0.3 * total, missed
