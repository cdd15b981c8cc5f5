"""Notebooks under nbval run as under `course run`: bundled tier, offline, nothing written outside a folder
that goes away. Labs run at the quick pace: every cell, and a tenth of each training."""

import os
import tempfile
from pathlib import Path

import pytest

from course_utils.workshop import runner

_folder = tempfile.TemporaryDirectory(prefix="course-nbval-")


def pytest_unconfigure():
    """Kernels have ended by now."""
    _folder.cleanup()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel while it sets up the first cell, and only the environment reaches it."""
    if item.path.suffix != ".ipynb":
        return (yield)
    before = dict(os.environ)
    offline = runner.kernel_environment(Path(_folder.name), "bundled", mark="")
    os.environ.clear()
    os.environ.update(offline)
    if item.path.parent.name == "labs":
        os.environ["COURSE_PACE"] = "quick"
    try:
        return (yield)
    finally:
        os.environ.clear()
        os.environ.update(before)
