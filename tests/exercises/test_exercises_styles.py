"""Right answers in other styles than the course's pass: loops, einsum, classes, decorators, recursion and more."""

from collections.abc import Callable

import pytest
import styles_7_1
import styles_7_2
import styles_7_3
import styles_7_4
import styles_7_5

from course_utils.exercises import check, registry

STYLES = styles_7_1.STYLES | styles_7_2.STYLES | styles_7_3.STYLES | styles_7_4.STYLES | styles_7_5.STYLES
ANSWERS: list[tuple[str, Callable]] = []
for name, functions in STYLES.items():
    ANSWERS += zip([name] * len(functions), functions, strict=True)


@pytest.mark.parametrize(("name", "function"), ANSWERS)
def test_another_style_passes(name: str, function: Callable, capsys) -> None:
    passed = check(name, function) is function
    printed = capsys.readouterr().out
    assert passed, printed
    assert f"passed: {registry.exercise(name).title}" in printed


def test_a_hundred_styles_cover_every_exercise() -> None:
    assert len(ANSWERS) >= 100
    assert STYLES.keys() == registry.exercises().keys()
    assert min(map(len, STYLES.values())) >= 8
