"""Notebooks under nbval run as under `course run`: bundled tier, offline, nothing written outside a folder
that goes away. They run at the quick pace: every cell, and a tenth of each training."""

import os
import tempfile
from pathlib import Path

import pytest

from course_utils.workshop import runner

_folder = tempfile.TemporaryDirectory(prefix="course-nbval-")

# Two workers take one file after the other. The long ones go first, so that both end at about the same time; all that
# is not named here takes seconds.
LONGEST_FIRST = (
    "memory/test_simulate.py",
    "memory/test_counting.py",
    "7.5_lab_reinforcement_learning.ipynb",
    "7.5_lab_dpo.ipynb",
    "7.5_lab_evaluation.ipynb",
    "7.1_lab_generative_families.ipynb",
    "7.5_lab_rag_finetuning.ipynb",
    "7.5_lab_more_tuning.ipynb",
    "7.1_lab_unpaired_translation.ipynb",
    "7.1_lab_binding_senses.ipynb",
    "7.1_lab_vision_language_model.ipynb",
    "7.5_finetuning_choices.ipynb",
    "7.5_lab_data.ipynb",
    "7.2_agents_in_production.ipynb",
    "7.2_agentic_ai.ipynb",
    "7.3_efficiency.ipynb",
    "7.3_lab_other_architectures.ipynb",
    "7.3_lab_faster_and_larger.ipynb",
    "7.3_reasoning.ipynb",
    "7.2_lab_capstone.ipynb",
    "agents/test_capstone_browser.py",
    "agents/test_graph.py",
    "7.5_lab_share_and_serve.ipynb",
    "serving/test_serving_real.py",
    "finetuning/test_finetuning.py",
    "finetuning/test_preferences.py",
    "workshop/test_evaluate.py",
    "memory/test_memory.py",
    "finetuning/test_scale_out.py",
    ".ipynb",
    "finetuning/test_dryrun.py",
    "workshop/test_runner.py",
    "test_cli.py",
)


def pytest_unconfigure():
    """Kernels have ended by now."""
    _folder.cleanup()


def pytest_collection_modifyitems(items):
    """Orders files by LONGEST_FIRST; what is in a file stays as it is."""
    items.sort(key=lambda item: _place(item.path.as_posix()))


def _place(path):
    places = [place for place, name in enumerate(LONGEST_FIRST) if path.endswith(name)]
    return min(places, default=len(LONGEST_FIRST))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel while it sets up the first cell, and only the environment reaches it."""
    if item.path.suffix != ".ipynb":
        return (yield)
    before = dict(os.environ)
    offline = runner.kernel_environment(Path(_folder.name), "bundled", mark="")
    os.environ.clear()
    os.environ.update(offline | {"COURSE_PACE": "quick"})
    try:
        return (yield)
    finally:
        os.environ.clear()
        os.environ.update(before)
