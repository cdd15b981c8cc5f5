"""Code that a model wrote: what the sandbox computes, what it refuses, and thirty attempts to get out of it."""

import sys

import pytest

from course_utils.agents import rewoo
from course_utils.agents.hands import code_sandbox, escape_attempts
from course_utils.prisma import text


def test_code_gives_its_last_value_and_what_it_printed() -> None:
    outcome = code_sandbox.run("print('now')\nsum(prices)", inputs={"prices": [12, 7, 30]})
    assert outcome.ok and outcome.value == 49 and outcome.printed == "now\n"
    assert outcome.text == "now\n49"
    assert code_sandbox.run("x = 1").text == "done, and nothing printed"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("prise", "name 'prise' is not defined"),
        ("for", "error: "),
        ("x = 'a' * 10**9", "the code needed more memory than it may"),
        ("9 ** 9 ** 9", "the code needed more memory than it may"),
        ("while True: print('x' * 1000)", "the code needed more memory than it may"),
    ],
)
def test_what_goes_wrong_is_told_in_one_line(code: str, said: str) -> None:
    outcome = code_sandbox.run(code)
    assert not outcome.ok and outcome.value is None
    assert said in outcome.text and "\n" not in outcome.error
    assert "Traceback" not in outcome.text


def test_the_limit_of_time_holds_and_a_sleep_takes_none() -> None:
    loop = code_sandbox.run("try:\n    while True: pass\nexcept BaseException: pass", seconds=0.2)
    assert loop.error == "the code took longer than it may" and loop.seconds < 3
    asleep = code_sandbox.run("import time\ntime.sleep(50)\n'awake'", seconds=0.2)
    assert asleep.value == "awake" and asleep.seconds < 3


def test_the_limit_of_memory_is_the_callers() -> None:
    code = "len('x' * 20_000_000)"
    assert code_sandbox.run(code, megabytes=64).value == 20_000_000
    assert code_sandbox.run(code, megabytes=8).error == "the code needed more memory than it may"


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"megabytes": 0}, {"seconds": -1}])
def test_a_limit_of_nothing_is_refused(limits: dict) -> None:
    with pytest.raises(ValueError, match="above 0"):
        code_sandbox.run("1", **limits)


def test_a_value_that_would_fill_the_memory_is_shown_short() -> None:
    outcome = code_sandbox.run("a = [0]\nfor _ in range(40):\n    a = [a, a]\na")
    length, shown = len(outcome.text), len(repr(outcome))
    del outcome  # pytest would write it out in full
    assert 0 < length < 2000 and shown < 2000


def test_code_calls_the_tools_that_it_is_given_and_no_other(toolbox, prisma) -> None:
    order = next(iter(prisma.orders.values()))
    functions = code_sandbox.tool_functions(toolbox, "orders", "catalogue")
    code = f"order = orders({order.number})\norder['quantity'] * catalogue(order['product'])['price']"
    assert code_sandbox.run(code, functions=functions).value == order.quantity * order.product.price
    assert "no order 1" in code_sandbox.run("orders(1)", functions=functions).error
    assert "not defined" in code_sandbox.run("customer('Ada')", functions=functions).error
    caught = code_sandbox.run("try:\n    orders(1)\nexcept ValueError:\n    print('told')", functions=functions)
    assert caught.text == "told"


def test_functions_are_called_a_limited_number_of_times() -> None:
    called = []
    outcome = code_sandbox.run("while True: note()", functions={"note": lambda: called.append(1)})
    assert "more than" in outcome.error and len(called) <= code_sandbox.MOST_CALLS


def test_a_plan_as_python_finds_what_the_runner_of_plans_finds(toolbox, prisma) -> None:
    functions = code_sandbox.tool_functions(toolbox, "orders", "catalogue", "customer", "policy")
    for task in text.episodes(40, seed=3, shop=prisma):
        plan = text.plan_text(task)
        steps = rewoo.execute(plan, toolbox, max_steps=8)
        outcome = code_sandbox.run(code_sandbox.as_python(plan), functions=functions)
        assert outcome.ok, outcome.error
        if steps[-1].tool == "calculator":
            assert str(outcome.value["value"]) == steps[-1].observation


def test_what_is_no_plan_is_no_program() -> None:
    assert code_sandbox.as_python("Answer: 24 euros") == ""


def test_a_sum_that_is_an_attack_is_run_inside_and_fails() -> None:
    program = code_sandbox.as_python("#E1 = calculator[__import__('os').getcwd()]")
    assert "__import__" in code_sandbox.run(program).error
    quoted = code_sandbox.as_python("#E1 = orders['); open('/etc/passwd') #]")
    assert "open" not in code_sandbox.run(quoted, functions={"orders": lambda given: "asked"}).error


# --- attempts to get out


@pytest.fixture(scope="module")
def ground():
    with escape_attempts.Ground() as ground:
        yield ground


def test_there_are_thirty_attempts_no_two_alike() -> None:
    assert len({attempt.code for attempt in escape_attempts.ATTEMPTS}) == 30


@pytest.mark.parametrize("attempt", escape_attempts.ATTEMPTS, ids=lambda attempt: f"{attempt.aim}: {attempt.way}")
def test_none_gets_out_of_the_sandbox(ground, attempt) -> None:
    out, outcome = ground.try_out(attempt, code_sandbox.run)
    assert not out, outcome


HARMLESS = ("open", "pathlib", "socket", "subprocess", "subclasses of object", "os.remove")


@pytest.mark.parametrize("way", HARMLESS)
def test_the_ground_notices_who_gets_out(ground, way: str) -> None:
    """A limited subprocess is no sandbox; and a ground that notices nothing would make every sandbox look safe."""
    attempt = next(one for one in escape_attempts.ATTEMPTS if one.way == way)
    out, outcome = ground.try_out(attempt, lambda code: code_sandbox.run_limited(code, seconds=20))
    assert out, outcome


def test_limits_of_a_subprocess_stop_a_loop_and_hide_the_environment(ground) -> None:
    limited = {attempt.way: attempt for attempt in escape_attempts.ATTEMPTS}
    out, outcome = ground.try_out(limited["an endless loop"], code_sandbox.run_limited)
    assert not out and outcome.error == "the code took longer than it may"
    out, outcome = ground.try_out(limited["os.environ"], lambda code: code_sandbox.run_limited(code, seconds=20))
    assert not out and "KeyError" in outcome.error


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the limit of memory")
def test_limits_of_a_subprocess_stop_what_takes_memory(ground) -> None:
    limited = {attempt.way: attempt for attempt in escape_attempts.ATTEMPTS}
    out, outcome = ground.try_out(limited["memory"], lambda code: code_sandbox.run_limited(code, seconds=20))
    assert not out and "MemoryError" in outcome.error


def test_a_function_that_is_handed_in_is_a_way_out(ground) -> None:
    careless = {"read_page": lambda name: ground.secret.read_text() if name == str(ground.secret) else ""}
    attempt = escape_attempts.Attempt("read a file", "your own function", "print(read_page(SECRET))")
    out, _ = ground.try_out(attempt, lambda code: code_sandbox.run(code, functions=careless))
    assert out
