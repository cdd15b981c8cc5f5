"""What diagnosing tests are made of: a student's function, run with care, and results compared in words."""

import inspect
import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from course_utils.exercises import sandbox, wire
from course_utils.exercises.registry import Exercise

TOLERANCE = 1e-5
COARSE = 0.05  # a few roundings of small numbers in 16 bits
SHOWN = 12  # numbers that a message shows; of longer tensors it tells the shape
LINES, LINE = 10, 200  # lines that are shown of what a function prints, and the letters of one


class Wrong(Exception):
    """A diagnosis in words for the student. `__cause__` is the exception of their code, if there was one."""


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
    attempt = Attempt(function, exercise.stub)
    with sandbox.alone():
        try:
            exercise.examine(attempt)
        except (NotAttempted, Wrong):
            raise
        except sandbox.CannotStart as error:
            raise NotJudged(
                f"Your function runs in a Python of its own, and that can't be started: {error}."
            ) from error
        except Exception as error:  # a result so odd that comparing it fails
            raise Wrong(f"What your function returns can't be examined ({_brief(error)}).") from error
        finally:
            attempt.end(tell)


def _same_code(function: Callable, stub: Callable) -> bool:
    ours, theirs = stub.__code__, getattr(function, "__code__", None)
    return theirs is not None and (ours.co_code, ours.co_consts) == (theirs.co_code, theirs.co_consts)


class Attempt:
    """A student's function as diagnosing tests call it: in its own process, and what it raises becomes Wrong."""

    def __init__(self, function: Callable, stub: Callable) -> None:
        self.signature = inspect.signature(stub)
        self.run = sandbox.Run(function)

    def __call__(self, *inputs: Any) -> Any:
        """Its result. Raises Wrong if it fails or changes an input, NotAttempted if it is still a stub."""
        try:
            reply = self.run(inputs)
        except sandbox.Stopped as stopped:
            raise Wrong("\n".join([str(stopped), "It was called with", *self._shown(inputs)])) from None
        match reply:
            case ("returned", result, list(after)):
                self._refuse_changes(inputs, after)
                return result
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
            tell("\n    ".join(["Your function printed:", *self._printed()]))
        if self.run.threads_left:
            tell("Your function left a thread running, which was ended.")

    def _printed(self) -> list[str]:
        """The first lines of what the function printed, and how much followed."""
        lines = self.run.printed.splitlines()
        shown = [line[:LINE] for line in lines[:LINES]]
        rest = self.run.left_out + sum(map(len, lines)) - sum(map(len, shown))
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
            wanted = ", ".join(list(self.signature.parameters)[: len(inputs)])
            return f"Your function can't be called with ({wanted}): {error}. Keep the first line of the stub."
        lines = [f"Your function stopped with {_brief(error)}"]
        match places:
            case [(str(file), int(number))]:
                source = linecache.getline(file, number).strip()  # a notebook's cells are known here only
                lines.append(f"    line {number}: {source}".rstrip(": "))
        return "\n".join([*lines, "It was called with", *self._shown(inputs)])

    def _difference(self, inputs: tuple, came: Any, wanted: Any) -> str:
        """Inputs, what was wanted and what came."""
        lines = ["The result is not right yet. For", *self._shown(inputs)]
        if isinstance(wanted, Tensor) and wanted.numel() > SHOWN:
            apart = ~torch.isclose(_plain(came), _plain(wanted), atol=TOLERANCE, rtol=0)
            place = tuple(apart.nonzero()[0].tolist())
            lines.append(f"{int(apart.sum())} of {wanted.numel()} numbers differ, the first at {list(place)}:")
            came, wanted = came[place], wanted[place]
        return "\n".join([*lines, f"    wanted: {show(wanted)}", f"    yours:  {show(came)}"])

    def _shown(self, inputs: tuple) -> list[str]:
        pairs = zip(self.signature.parameters, inputs, strict=False)
        return [f"    {name} = {show(value)}" for name, value in pairs]


def near(came: Any, wanted: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether a result is `wanted`, up to rounding: of the same kind, and a tensor of the same shape."""
    if isinstance(wanted, Tensor):
        if not isinstance(came, Tensor) or came.shape != wanted.shape:
            return False
        if came.is_complex() != wanted.is_complex():
            return False
        return torch.allclose(_plain(came), _plain(wanted), atol=tolerance, rtol=0)
    if isinstance(wanted, float):
        return _is_number(came) and abs(came - wanted) <= tolerance
    return type(came) is type(wanted) and came == wanted


def _plain(tensor: Tensor) -> Tensor:
    exact = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().cpu().to(exact)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(before: Any, after: Any) -> bool:
    """Whether two inputs are equal, with tensors and missing parts inside lists."""
    if isinstance(before, Tensor):
        return isinstance(after, Tensor) and torch.equal(before, after)
    if isinstance(before, list | tuple):
        alike = isinstance(after, list | tuple) and len(before) == len(after)
        return alike and all(map(same, before, after))
    return callable(before) or before == after  # a function of ours does not come back


def kind_fault(came: Any, wanted: Any) -> str:
    """What is wrong with the kind of a result: nothing came, another type or shape, nan. Empty if nothing is."""
    if came is None:
        return "Your function returns nothing (None). Is the `return` missing?"
    if isinstance(wanted, float):
        return "" if _is_number(came) else f"Your function returns {_a(came)}. A plain number is wanted."
    if isinstance(wanted, list):
        return "" if isinstance(came, list) else f"Your function returns {_a(came)}. A list is wanted."
    if not isinstance(came, Tensor):
        wish = f"A torch.Tensor of shape {tuple(wanted.shape)} is wanted."
        why = " `.item()` and `float()` would also cut the gradient." if _is_number(came) else ""
        why = " Stay with torch's own functions." if getattr(came, "module", "") == "numpy" else why
        return f"Your function returns {_a(came)}. {wish}{why}"
    if came.shape != wanted.shape:
        return f"Your result has the shape {tuple(came.shape)}. It should be {tuple(wanted.shape)}."
    if came.is_complex() and not wanted.is_complex():
        return "Your result holds complex numbers. Real ones are wanted."
    return "Your result holds nan: somewhere 0/0, or a softmax over nothing." if _plain(came).isnan().any() else ""


def show(value: Any) -> str:
    """A value as a message shows it: short tensors as numbers, long ones as a shape, functions by name."""
    if isinstance(value, Tensor):
        short = value.numel() <= SHOWN
        return str(_rounded(value.tolist())) if short else f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(show, value)) + "]"
    if isinstance(value, wire.Foreign):
        return _a(value)
    return getattr(value, "__name__", None) or repr(_rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def _a(value: Any) -> str:
    """A value's type in words a student knows."""
    name = value.kind if isinstance(value, wire.Foreign) else type(value).__name__
    known = {"ndarray": "a NumPy array", "NoneType": "None", "Tensor": "a torch.Tensor"}
    return known.get(name, f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}")


def _brief(error: BaseException) -> str:
    """Type and first line of an exception."""
    name = error.name if isinstance(error, Raised) else type(error).__name__
    text = str(error).strip().split("\n")[0][:200]
    return f"{name}: {text}" if text else name
