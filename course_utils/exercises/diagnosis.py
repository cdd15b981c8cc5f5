"""What diagnosing tests are made of: a student's function, run with care, and results compared in words."""

import inspect
import linecache
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from course_utils.exercises import sandbox, wire
from course_utils.exercises.registry import Exercise

TOLERANCE = 1e-5
NO_GRADIENT = (
    "The value is right, but no gradient flows back to {}, so nothing could be trained. Leave out `detach`, `item`, "
    "`torch.tensor(...)` and `no_grad`."
)
COARSE = 0.05  # a few roundings of small numbers in 16 bits
SHOWN = 12  # numbers that a message shows; of longer tensors it tells the shape
LINES, LINE = 10, 200  # lines that are shown of what a function prints, and the letters of one
IN_WORDS = {list: "list", tuple: "tuple", str: "text", dict: "dict"}  # kinds of results that are shown whole
KNOWN = {"ndarray": "a NumPy array", "NoneType": "None", "Tensor": "a torch.Tensor"}  # in words


class Wrong(Exception):
    """A diagnosis in words for the student. `__cause__` is the exception of their code, if there was one."""


class OwnSolution(Wrong):
    """The function calls the course's own solution."""


class NotAttempted(Exception):
    """The function still raises NotImplementedError, as the stub does."""


class NotJudged(Exception):
    """Nothing can be said about the function, and that is not its fault: why."""


class Raised(Exception):
    """What a student's function raised, as it is known here: `kinds` are the built-in types that it belongs to."""

    def __init__(self, name: str, kinds: Sequence[str], text: str) -> None:
        super().__init__(text)
        self.name, self.kinds = name, kinds


def examine(exercise: Exercise, function: Any, tell: Callable[[str], None] = print) -> None:
    """Run the diagnosing test of `exercise` on a student's `function`, and `tell` what the function prints.

    Raises NotAttempted, Wrong or NotJudged, and nothing else that `function` could cause.
    """
    if not callable(function):
        raise Wrong(f"`{exercise.stub.__name__}` should be a function. What came is {_a(function)}.")
    if _same_code(function, exercise.stub):  # no process has to be started to know
        raise NotAttempted
    attempt = Attempt(sandbox.Run(function), exercise.stub)
    with sandbox.alone():
        try:
            put_to(exercise.examine, attempt)
        finally:
            attempt.end(tell)


def put_to(test: Callable, attempt: "Attempt", *more: Any) -> None:
    """Run `test(attempt, *more)`. Raises NotAttempted, Wrong or NotJudged, and nothing else."""
    try:
        test(attempt, *more)
    except (NotAttempted, Wrong):
        raise
    except sandbox.CannotStart as error:
        raise NotJudged(f"Your function runs in a Python of its own, and that can't be started: {error}.") from error
    except Exception as error:  # a result so odd that comparing it fails
        raise Wrong(f"What your function returns can't be examined ({_brief(error)}).") from error


def _same_code(function: Callable, stub: Callable) -> bool:
    code = getattr(function, "__code__", None)
    if code is None:  # a class, or something built in
        return False
    return code.co_code == stub.__code__.co_code and code.co_consts == stub.__code__.co_consts


class Attempt:
    """A student's function as diagnosing tests call it: in its own process, and what it raises becomes Wrong.

    `run` is where it runs: a `sandbox.Run`, or what stands for one.
    """

    def __init__(self, run: Any, stub: Callable) -> None:
        self.signature = inspect.signature(stub)
        self.run = run

    def __call__(self, *inputs: Any) -> Any:
        """Its result. Raises Wrong if it fails or changes an input, NotAttempted if it is still a stub."""
        try:
            reply = self.run(inputs)
        except sandbox.Stopped as stopped:
            raise Wrong(self._on_inputs([str(stopped)], inputs)) from None
        match reply:
            case ("returned", result, list(after)):
                self._refuse_changes(inputs, after)
                return result
            case ("raised", "OwnSolution", _, str(words), _, _):
                raise OwnSolution(words)
            case ("raised", "Wrong", _, str(words), _, _):  # one of the inputs says what is wrong with its use
                raise Wrong(words)
            case ("raised", str(name), list(kinds), str(text), bool(bare), list(places)):
                # Some functions of torch raise NotImplementedError too, but never without a message.
                if bare and "NotImplementedError" in kinds:
                    raise NotAttempted
                error = Raised(name, kinds, text)
                raise Wrong(self._failure(error, places, inputs)) from error
            case ("unfit", str(why)):
                raise Wrong(f"What your function returns can't be examined ({why}).")
        raise Wrong("What your function returns can't be examined: something else came in its place.")

    def end(self, tell: Callable[[str], None]) -> None:
        """`tell` the beginning of what the function has printed, and whether it left anything running."""
        self.run.end()
        if self.run.printed:
            lines = ["Your function printed:", *self._printed()]
            tell("\n    ".join(lines))
        if self.run.threads_left:
            tell("Your function left a thread running, which was ended.")

    def _printed(self) -> list[str]:
        """The first lines of what the function printed, and how much followed."""
        lines = self.run.printed.splitlines()
        shown = [line[:LINE] for line in lines[:LINES]]
        letters = sum(map(len, lines))
        cut = letters - sum(map(len, shown))
        rest = self.run.left_out + cut
        if rest == 0:
            return shown
        amount = f"{rest:,} characters" if self.run.complete else "more"
        return [*shown, f"... and {amount}"]

    def _refuse_changes(self, inputs: tuple, after: list) -> None:
        for name, before, now in zip(self.signature.parameters, inputs, after, strict=False):
            if not same(before, now):
                raise Wrong(
                    f"Your function changes its input `{name}`, which the notebook still needs. Make something "
                    "new instead: `x = x * 2`, not `x *= 2`; and no `append`, `remove` or `sort` on an input."
                )

    def compare(self, inputs: tuple, wanted: Any, mistakes: Mapping[str, Any] | None = None, almost: str = "") -> Any:
        """The result for `inputs`, if it is `wanted`. `mistakes` maps a diagnosis to the result it explains.

        `almost` is the diagnosis for a tensor that is `wanted` but for coarse rounding. Raises Wrong with the first
        diagnosis that fits, otherwise with the inputs, what was wanted and what came.
        """
        came = self(*inputs)
        if near(came, wanted):
            return came
        for words, result in (mistakes or {}).items():
            if near(came, result):
                raise Wrong(words)
        if almost and near(came, wanted, COARSE):
            raise Wrong(almost)
        raise Wrong(kind_fault(came, wanted) or self._difference(inputs, came, wanted))

    def _failure(self, error: Raised, places: list, inputs: tuple) -> str:
        """What was raised, where in the student's code, and on which inputs."""
        if not places and error.name == "TypeError":
            names = list(self.signature.parameters)
            wanted = ", ".join(names[: len(inputs)])
            return f"Your function can't be called with ({wanted}): {error}. Keep the first line of the stub."
        lines = [f"Your function stopped with {_brief(error)}"]
        match places:
            case [(str(file), int(number))]:
                source = linecache.getline(file, number).strip()  # a notebook's cells are known here only
                lines.append(f"    line {number}: {source}".rstrip(": "))
        return self._on_inputs(lines, inputs)

    def _on_inputs(self, lines: list[str], inputs: tuple) -> str:
        """What happened, and on which inputs."""
        lines = [*lines, "It was called with", *self._shown(inputs)]
        return "\n".join(lines)

    def _difference(self, inputs: tuple, came: Any, wanted: Any) -> str:
        """Inputs, what was wanted and what came."""
        lines = ["The result is not right yet. For", *self._shown(inputs)]
        if _holds_tensors(wanted):
            pairs = list(zip(came, wanted, strict=True))
            place = next(i for i, pair in enumerate(pairs) if not near(*pair))
            lines.append(f"the result at place {place} (the first is 0) is another:")
            came, wanted = pairs[place]
        if isinstance(wanted, Tensor) and wanted.numel() > SHOWN:
            close = torch.isclose(_plain(came), _plain(wanted), atol=TOLERANCE, rtol=0)
            apart = (~close).nonzero().tolist()  # the places where they differ
            lines.append(f"{len(apart)} of {wanted.numel()} numbers differ, the first at {apart[0]}:")
            place = tuple(apart[0])
            came, wanted = came[place], wanted[place]
        lines += [f"    wanted: {show(wanted)}", f"    yours:  {show(came)}"]
        return "\n".join(lines)

    def _shown(self, inputs: tuple) -> list[str]:
        pairs = zip(self.signature.parameters, inputs, strict=False)
        return [f"    {name} = {show(value)}" for name, value in pairs]


def need_gradient(came: Tensor, to: str) -> None:
    """Raise Wrong if a loss of the right value can't train what `to` names."""
    if not came.requires_grad:
        raise Wrong(NO_GRADIENT.format(to))


def near(came: Any, wanted: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether a result is `wanted`, up to rounding: of the same kind, and a tensor of the same shape."""
    if isinstance(wanted, Tensor):
        if not isinstance(came, Tensor) or came.shape != wanted.shape:
            return False
        if came.is_complex() != wanted.is_complex():
            return False
        return torch.allclose(_plain(came), _plain(wanted), atol=tolerance, rtol=0)
    if isinstance(wanted, float):
        return _is_number(came) and math.isclose(came, wanted, rel_tol=0, abs_tol=tolerance)
    if type(came) is not type(wanted):
        return False
    if _holds_tensors(wanted):
        pairs = zip(came, wanted, strict=False)
        return len(came) == len(wanted) and all(near(*pair, tolerance) for pair in pairs)
    return came == wanted


def _holds_tensors(value: Any) -> bool:
    """Whether it is a list or a tuple of results, some of them tensors."""
    return isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value)


def _plain(tensor: Tensor) -> Tensor:
    exact = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().cpu().to(exact)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float)


def same(before: Any, after: Any) -> bool:
    """Whether two inputs are equal, with tensors and missing parts inside lists and dicts."""
    if isinstance(before, Tensor):
        return isinstance(after, Tensor) and torch.equal(before, after)
    if isinstance(before, list | tuple):
        if not isinstance(after, list | tuple) or len(before) != len(after):
            return False
        return all(map(same, before, after))
    if isinstance(before, dict):
        return isinstance(after, dict) and same([*before.items()], [*after.items()])
    return callable(before) or before == after  # a function of ours does not come back


def kind_fault(came: Any, wanted: Any) -> str:
    """What is wrong with the kind of a result: nothing came, another type or shape, nan. Empty if nothing is."""
    if came is None:
        return "Your function returns nothing (None). Is the `return` missing?"
    if isinstance(wanted, float | int):
        return "" if _is_number(came) else f"Your function returns {_a(came)}. A plain number is wanted."
    for kind, name in IN_WORDS.items():
        if isinstance(wanted, kind):
            if not isinstance(came, kind):
                return f"Your function returns {_a(came)}. A {name} is wanted."
            return _parts_fault(came, wanted) if _holds_tensors(wanted) else ""
    if not isinstance(came, Tensor):
        return _no_tensor(came, wanted)
    if came.shape != wanted.shape:
        return f"Your result has the shape {tuple(came.shape)}. It should be {tuple(wanted.shape)}."
    if came.is_complex() and not wanted.is_complex():
        return "Your result holds complex numbers. Real ones are wanted."
    if _plain(came).isnan().any():
        return "Your result holds nan: somewhere 0/0, or a softmax over nothing."
    return ""


def _parts_fault(came: Sequence, wanted: Sequence) -> str:
    """The first of several results whose kind is wrong, and what is wrong with it."""
    if len(came) != len(wanted):
        return f"Your function returns {len(came)} things. {len(wanted)} are wanted."
    for place, pair in enumerate(zip(came, wanted, strict=True)):
        fault = kind_fault(*pair)
        if fault:
            fault = fault.replace("Your function returns", "Your function returns there")
            return f"At place {place} of your results (the first is 0): {fault}"
    return ""


def _no_tensor(came: Any, wanted: Tensor) -> str:
    """What came where a tensor is wanted, and how to get one."""
    fault = f"Your function returns {_a(came)}. A torch.Tensor of shape {tuple(wanted.shape)} is wanted."
    if getattr(came, "module", "") == "numpy":
        return f"{fault} Stay with torch's own functions."
    if _is_number(came):
        return f"{fault} `.item()` and `float()` would also cut the gradient."
    return fault


def show(value: Any) -> str:
    """A value as a message shows it: short tensors as numbers, long ones as a shape, functions by name."""
    if isinstance(value, Tensor):
        if not _is_small(value.shape):
            return f"a tensor of shape {tuple(value.shape)}"
        numbers = _rounded(value.tolist())
        return str(numbers)
    if isinstance(value, list | tuple):
        parts = ", ".join(map(show, value))
        return f"[{parts}]"
    if isinstance(value, dict):
        parts = ", ".join(f"{key!r}: {show(part)}" for key, part in value.items())
        return f"{{{parts}}}"
    if isinstance(value, wire.Foreign):
        return _a(value)
    name = getattr(value, "__name__", None)
    return name or repr(_rounded(value))


def _is_small(shape: Sequence[int]) -> bool:
    """Whether all numbers can be shown. (10**9, 0) holds none, yet is a billion lists; 10**5 dimensions end Python."""
    rows = math.prod(max(1, size) for size in shape)
    return rows <= SHOWN and len(shape) <= SHOWN


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return round(value, 4)
    return value


def _a(value: Any) -> str:
    """A value's type in words a student knows."""
    name = value.kind if isinstance(value, wire.Foreign) else type(value).__name__
    if name in KNOWN:
        return KNOWN[name]
    first = name[0].lower()
    article = "an" if first in "aeiou" else "a"
    return f"{article} {name}"


def _brief(error: BaseException) -> str:
    """Type and first line of an exception."""
    name = error.name if isinstance(error, Raised) else type(error).__name__
    said = str(error).strip()
    line = said.split("\n")[0]
    return f"{name}: {line[:200]}" if line else name
