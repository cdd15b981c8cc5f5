"""Notebooks under nbval run as under `course run`: bundled tier, offline, nothing written outside a folder
that goes away."""

import os
import tempfile
from pathlib import Path

import pytest

from course_utils.models import hardware
from course_utils.workshop import runner

# Labs whose trainings take six minutes and more for one thread without bfloat16 units. `make test` has to end.
LONG = (
    "7.5_lab_data",
    "7.5_lab_dpo",
    "7.5_lab_more_tuning",
    "7.5_lab_other_peft",
    "7.5_lab_reinforcement_learning",
)
_folder = tempfile.TemporaryDirectory(prefix="course-nbval-")


def pytest_unconfigure():
    """Kernels have ended by now."""
    _folder.cleanup()


def pytest_collection_modifyitems(items):
    """On an older processor the longest labs are left out, aloud: they are fit for `course run`."""
    dtype, reason = hardware.usable_dtype("cpu")
    if dtype == "bfloat16":
        return
    for item in items:
        if item.path.suffix == ".ipynb" and item.path.stem in LONG:
            why = f"{reason}, so this lab takes long: run it with `course run {item.path.stem}`"
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel while it sets up the first cell, and only the environment reaches it."""
    if item.path.suffix != ".ipynb":
        return (yield)
    before = dict(os.environ)
    offline = runner.kernel_environment(Path(_folder.name), "bundled", mark="")
    os.environ.clear()
    os.environ.update(offline)
    try:
        return (yield)
    finally:
        os.environ.clear()
        os.environ.update(before)
