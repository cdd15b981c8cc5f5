import subprocess
import sys

import pytest

import course_utils

PROBE = """
import sys, time
start = time.process_time()
import course_utils
spent = time.process_time() - start
print(spent, [name for name in ("torch", "numpy", "transformers", "matplotlib") if name in sys.modules])
"""


def test_import_is_instant_and_without_torch():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    spent, heavy = done.stdout.split(maxsplit=1)
    assert float(spent) < 0.1
    assert heavy.strip() == "[]"


def test_open_unit_is_exported():
    from course_utils.unit import open_unit

    assert course_utils.open_unit is open_unit


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'open_units'"):
        course_utils.open_units  # noqa: B018
