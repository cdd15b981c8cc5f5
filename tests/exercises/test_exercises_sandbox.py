"""Whatever a student's function does, the notebook goes on, `check` says what happened, and nothing false counts."""

import _thread
import importlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.exercises import check, diagnosis, progress, registry, sandbox, wire
from course_utils.exercises.unit_7_1 import solutions as solutions_7_1
from course_utils.exercises.unit_7_5 import solutions as solutions_7_5
from course_utils.finetuning import preferences
from course_utils.prisma import speech
from course_utils.settings import TEXT

LOSS = "7.1.contrastive_loss"
RATE = "7.1.word_error_rate"


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch) -> Path:
    """A progress file of the test's own."""
    monkeypatch.delenv("COURSE_PROGRESS", raising=False)
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


@pytest.fixture
def checked(capsys) -> Callable:
    """Checks a function that must not pass; what was said, in one line."""

    def run(name: str, function) -> str:
        capsys.readouterr()
        assert check(name, function) is registry.exercise(name).reference
        assert progress.get("exercises", name).status != "done"
        return " ".join(capsys.readouterr().out.split())

    return run


def worker() -> psutil.Process | None:
    """The process in which functions run."""
    for child in psutil.Process().children():
        if "course_utils.exercises.worker" in child.cmdline():
            return child
    return None


def right_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits = scale * image @ text.T
    truth = torch.arange(len(logits))
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


# --- what the process survives


def asks(*_) -> str:
    return input("How much? ")


def interrupts_itself(*_) -> None:
    raise KeyboardInterrupt


def exits(*_) -> None:
    sys.exit("enough")


class Strange(BaseException):
    """An exception that `except Exception` does not catch, and that can't be shown."""

    def __str__(self) -> str:
        raise OSError


def raises_strangely(*_) -> None:
    raise Strange


def descends(*inputs):
    return descends(*inputs)


def returns_much(*_) -> str:
    return "x" * (wire.LARGEST + 1)


def returns_itself(*_) -> list:
    circle: list = []
    circle.append(circle)
    return circle


SURVIVED = [
    (asks, "stopped with EOFError: nobody can answer `input()`"),
    (interrupts_itself, "stopped with KeyboardInterrupt"),
    (exits, "stopped with SystemExit: enough"),
    (raises_strangely, "stopped with Strange line"),
    (descends, "RecursionError"),
    (returns_much, "can't be examined (it has 33,"),
    (returns_itself, "can't be examined (RecursionError"),
    (lambda *_: {"loss": 1.0}, "returns a dict"),
    (lambda *_: torch.ones(3).to_sparse(), "can't be examined"),
]


@pytest.mark.parametrize(("function", "words"), SURVIVED)
def test_a_function_that_does_odd_things(function: Callable, words: str, checked) -> None:
    assert words in checked(LOSS, function)


def test_all_calls_together_have_a_limit(checked, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS_IN_ALL", 0.3)

    def slow(reference, hypothesis):
        time.sleep(0.35)
        return wrong_only_later(reference, hypothesis)

    assert "has taken more than 0.3 s in this check" in checked(RATE, slow)


def wrong_only_later(reference: list[str], hypothesis: list[str]) -> float:
    return {3: 6 / 11, 1: 3.0}[len(reference)]


def test_a_flood_is_cut(capsys) -> None:
    def talkative(*inputs):
        for number in range(5):
            print("line", number)
        print("x" * 20_000_000)
        print("trouble", file=sys.stderr)
        return right_loss(*inputs)

    assert check(LOSS, talkative) is talkative
    text = capsys.readouterr().out
    assert text.startswith("Your function printed:\n    line 0\n    line 1\n") and "passed: CLIP's loss" in text
    assert len(text) < 1000 and re.search(r"\.\.\. and 39,999,\d\d\d characters\n", text)


def test_display_is_there_as_in_a_notebook(capsys) -> None:
    def shows(*inputs):
        display(inputs[2])  # noqa: F821
        return right_loss(*inputs)

    assert check(LOSS, shows) is shows
    assert "    tensor(2.)\n" in capsys.readouterr().out


def test_closing_the_output_closes_nothing(capsys) -> None:
    def closes(*inputs):
        sys.stdout.close()
        print("and on", end="")
        return right_loss(*inputs)

    assert check(LOSS, closes) is closes
    assert capsys.readouterr().out.startswith("Your function printed:\n    and on")


def test_random_numbers_and_defaults_of_one_function_are_not_the_next_ones(capsys) -> None:
    def meddles(*_):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)

    check(LOSS, meddles)
    assert check(LOSS, right_loss) is right_loss


def test_a_pickle_is_no_value() -> None:
    for data in (HARM, b"", b"3\n", b"[" * 100_000, pickle.dumps(3)):
        with pytest.raises((ValueError, RecursionError, Exception)):
            wire.unpack(data)


VALUES = [None, True, 3, -1.5, float("inf"), "é\n", [1, [2.0, (None,)]], (), torch.tensor(2.5), torch.zeros(0, 3)]
KINDS = [torch.uint8, torch.bool, torch.bfloat16, torch.float64, torch.complex64, torch.complex128]


@pytest.mark.parametrize("value", VALUES + [torch.ones(2, 3, dtype=kind)[:, 1:] for kind in KINDS], ids=repr)
def test_a_value_comes_back_as_it_went(value) -> None:
    back = wire.unpack(wire.pack(value))
    assert type(back) is type(value) and diagnosis.same(value, back)
    if isinstance(value, Tensor):
        assert back.dtype == value.dtype and back.shape == value.shape


def test_a_result_keeps_its_need_for_a_gradient() -> None:
    assert wire.unpack(wire.pack(torch.ones(2, requires_grad=True) * 2)).requires_grad
    assert not wire.unpack(wire.pack(torch.ones(2))).requires_grad


# --- what a function may use


FACTOR = 2


def halves(value: Tensor) -> Tensor:
    return value / FACTOR


def test_globals_and_functions_of_the_notebook_go_along(capsys) -> None:
    assert check(LOSS, with_globals) is with_globals


def with_globals(image, text, scale):
    logits = scale * image @ text.T
    truth = torch.arange(len(logits))
    return halves(F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth))


def test_a_module_beside_the_notebook_is_taken_as_it_is_now(tmp_path, monkeypatch, checked, capsys) -> None:
    """The process stays, and must not remember the module's older text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "my_answers.py"
    for factor, words in ((1, "twice as large"), (2, "passed")):
        module.write_text(
            textwrap.dedent(f"""
            import torch
            from torch.nn import functional as F

            def both(a, b):
                return F.cross_entropy(a, b) + F.cross_entropy(a.T, b)

            def loss(image, text, scale):
                return both(scale * image @ text.T, torch.arange(len(image))) / {factor}
        """)
        )
        sys.modules.pop("my_answers", None)
        my_answers = importlib.import_module("my_answers")
        capsys.readouterr()
        check(LOSS, my_answers.loss)
        assert words in capsys.readouterr().out
    sys.modules.pop("my_answers")


def test_what_cannot_go_along_is_named(checked, monkeypatch) -> None:
    lock = threading.Lock()
    text = checked(LOSS, lambda *_: lock.acquire())
    assert "can't be tested: `lock` from the notebook, which it uses, can't be copied" in text
    monkeypatch.setattr(sandbox, "LARGEST_FUNCTION", 10**6)
    large = torch.zeros(10**6)
    assert "`large` from the notebook, which it uses, is larger than" in checked(LOSS, lambda *_: large)


# --- what does not count


def imports_the_solution(*inputs):
    from course_utils.exercises.unit_7_1 import solutions as course

    return course.contrastive_loss(*inputs)


def asks_the_registry(*inputs):
    return registry.exercise(LOSS).reference(*inputs)


def checks_again(*inputs):
    return check(LOSS, right_loss)(*inputs)


BORROWED = [
    (LOSS, imports_the_solution),
    (LOSS, asks_the_registry),
    (LOSS, checks_again),
    (LOSS, lambda *inputs: solutions_7_1.contrastive_loss(*inputs)),
    (RATE, lambda said, heard: speech.word_error_rate(said, heard)),
    (RATE, lambda said, heard: speech.word_errors(said[0], heard[0])),
    ("7.5.without_copies", lambda texts, *_: [solutions_7_5.runs_of_three(text) for text in texts]),
    ("7.5.dpo_loss", lambda c, r, cb, rb, beta: preferences.dpo_loss(*(x.sum(1) for x in (c, r, cb, rb)), beta)),
]


@pytest.mark.parametrize(("name", "function"), BORROWED)
def test_the_courses_own_solution_does_not_count(name: str, function: Callable, checked) -> None:
    assert "calls the course's own solution, or `check`. That does not count" in checked(name, function)


@pytest.mark.parametrize("name", registry.exercises())
def test_no_solution_counts_in_a_wrapper(name: str, checked) -> None:
    solution = registry.exercise(name).reference
    assert "calls the course's own solution" in checked(name, lambda *inputs: solution(*inputs))


def replaces_the_checker(*_):
    from course_utils.exercises import actions, diagnosis, progress, registry

    task = registry.exercise(LOSS)
    registry.exercises = lambda: {}
    registry.Exercise.examine = property(lambda self: lambda yours: None)
    diagnosis.near = diagnosis.same = lambda *_, **__: True
    actions.check = print
    progress.put("exercises", task.name, progress.Record("done"))
    return torch.tensor(0.0)


def test_a_function_that_replaces_the_checker_changes_nothing(checked, capsys, file) -> None:
    assert "not yet" in checked(LOSS, replaces_the_checker)
    assert json.loads(file.read_text())["exercises"][LOSS]["status"] == "tried"
    assert check(LOSS, right_loss) is right_loss


TRICKS = [
    "registry.exercises = lambda: {}",
    "registry.Exercise.examine = property(lambda self: lambda yours: None)",
    "solutions_7_1.examine_contrastive_loss = lambda yours: None",
    "diagnosis.near = lambda *_: True",
    "progress.put = lambda *_: None",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_a_checker_that_was_replaced_in_the_notebook_does_not_judge(trick: str, capsys, monkeypatch) -> None:
    modules = {"registry": registry, "diagnosis": diagnosis, "progress": progress, "solutions_7_1": solutions_7_1}
    owner, _, name = trick.partition(" = ")[0].rpartition(".")
    place = eval(owner, modules)
    monkeypatch.setattr(place, name, vars(place)[name])  # put back afterwards
    exec(trick, modules | {"__name__": "__main__"})
    assert check(LOSS, len) is len
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("not judged: `") and name in text and "Restart the kernel" in text


def test_a_wrong_imaginary_part_is_wrong(checked) -> None:
    text = checked(LOSS, lambda *inputs: right_loss(*inputs) + 0.5j)
    assert "holds complex numbers. Real ones are wanted." in text
    assert not diagnosis.near(torch.tensor([1 + 2j]), torch.tensor([1 + 3j]))
    assert diagnosis.near(torch.tensor([1 + 2j]), torch.tensor([1 + 2j]))


def test_a_stub_needs_no_process(capsys, monkeypatch) -> None:
    """A notebook that is only read costs no second Python."""
    monkeypatch.setattr(sandbox.Run, "__call__", lambda *_: pytest.fail("the stub was run"))
    for name, task in registry.exercises().items():
        check(name, task.stub)
    assert capsys.readouterr().out.count("open: ") == len(registry.exercises())


# --- what ends the process: each with its sentence, and the next function is judged as ever


def endless(*_) -> None:
    print("still here")
    while True:
        pass


HARM = b"cbuiltins\nopen\n(Vharm-was-done\nVw\ntR."  # the pickle of a call of `open`


def leaves(*_) -> None:
    os._exit(7)


def forges(*_) -> None:
    """Writes a pickle, which would make a file, where it finds our pipe."""
    for stream in range(3, 20):
        with suppress(OSError):
            os.write(stream, wire.HEADER.pack(len(HARM)) + HARM)


def eats_memory(*_) -> None:
    lists = []
    while True:
        lists.append(bytearray(10**7))


ENDS = [
    (endless, "ran longer than 0.5 s. Is there a loop that never ends?"),
    (leaves, "ended Python (exit code 7)"),
    (forges, "examined: something else came in its place"),
    (eats_memory, "took more than 0.25 GiB of memory"),
]


def test_ctrl_c_ends_the_check_and_not_the_notebook(checked, monkeypatch, request) -> None:
    checked(LOSS, lambda *_: None)  # the process has started
    before = worker()
    monkeypatch.setattr(sandbox, "SECONDS", 60)
    # A shell that starts the tests in the background makes them deaf to Ctrl-C.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, earlier))
    threading.Timer(3, _thread.interrupt_main).start()  # the function runs by then, on a busy machine, too
    started = time.monotonic()
    text = checked(LOSS, endless)
    assert "interrupted: CLIP's loss" in text and time.monotonic() - started < 3 + 4  # 4 s after the interrupt
    assert not before.is_running() or before.status() == psutil.STATUS_ZOMBIE
    assert progress.get("exercises", LOSS).attempts == 1  # the first one


@pytest.mark.parametrize(("function", "words"), ENDS)
def test_a_function_that_does_not_come_back(function: Callable, words: str, checked, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 30 if function is eats_memory else 0.5)
    monkeypatch.setattr(sandbox, "MEMORY", 2**28)
    monkeypatch.chdir(tmp_path)
    text = checked(LOSS, function)
    assert "not yet: CLIP's loss" in text and words in text
    assert not list(tmp_path.glob("harm*"))
    assert function is forges or "image = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]" in text
    assert progress.get("exercises", LOSS) == progress.Record("tried", attempts=1)
    assert ("still here" in text) is (function is endless)


def test_a_thread_that_is_left_is_ended(capsys) -> None:
    def leaves_a_thread(*inputs):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        return right_loss(*inputs)

    assert check(LOSS, leaves_a_thread) is leaves_a_thread
    assert "left a thread running, which was ended" in capsys.readouterr().out and worker() is None


def test_a_python_that_does_not_start_is_said(checked, monkeypatch) -> None:
    sandbox.close()
    monkeypatch.setattr(sys, "executable", os.path.join(os.path.dirname(sys.executable), "no-python"))
    text = checked(LOSS, right_loss)
    assert "not judged: CLIP's loss" in text and "can't be started" in text
    assert progress.get("exercises", LOSS) == progress.Record()


SCRIPT = """
import os, signal, sys, threading, psutil
from course_utils.exercises import check, sandbox

def endless(*_):
    while True:
        pass

def die():
    me = psutil.Process()
    print(*[child.pid for child in me.children()], flush=True)
    me.kill()

check("7.1.contrastive_loss", lambda *_: None)
threading.Timer(0.3, die).start()
check("7.1.contrastive_loss", endless)
"""


def test_the_process_ends_with_a_kernel_that_is_killed() -> None:
    environment = os.environ | {"COURSE_PROGRESS": "off"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=200, env=environment)
    pids = [int(word) for word in done.stdout.splitlines()[-1].split()]
    assert len(pids) == 1, done.stdout + done.stderr
    for _ in range(100):
        if not psutil.pid_exists(pids[0]):
            return
        time.sleep(0.1)
    psutil.Process(pids[0]).kill()
    pytest.fail("the worker outlived its kernel")


# --- notebooks

CALL = re.compile(r'\b(check|quiz)\("')
PAGES = [page for page in sorted(TEXT.rglob("*.py")) if CALL.search(page.read_text("utf-8"))]
ADVERTISED = "from course_utils.exercises import check, hint, quiz, solution\n"


def cells(page: Path) -> list[str]:
    """The code cells of a notebook's text."""
    parts = re.split(r"^# %%", page.read_text("utf-8"), flags=re.MULTILINE)
    return [part.partition("\n")[2] for part in parts if "[markdown]" not in part.partition("\n")[0]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_imports_what_its_messages_offer(page: Path) -> None:
    assert ADVERTISED in page.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_check_cell_does_nothing_but_check(page: Path) -> None:
    """Below "not yet" nothing may stand that the course's own solution has computed."""
    for cell in cells(page):
        if 'check("' not in cell:
            continue
        lines = [line for line in cell.splitlines() if line.strip() and not line.startswith("#")]
        others = [line for line in lines if not re.fullmatch(r'(\w+ = check|quiz)\(".*\)', line)]
        assert others == [], f"{page.name}: comparisons go into a cell that says whose function runs"
