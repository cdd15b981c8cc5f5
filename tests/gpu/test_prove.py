"""The script for a rented card, without one: its limits, its report, and its rehearsal on this CPU."""

import json
import subprocess
import sys
import time

import prove
import psutil
import pytest
import torch

PRINTS = "print('noise'); print('RESULT {\"a\": 1}'); print('more')"


def python(code):
    """A command that runs `code`."""
    return [sys.executable, "-c", code]


def test_a_result_is_found_among_what_libraries_print():
    outcome = prove.in_its_own_process(python(PRINTS), limit=60)
    assert outcome["found"] == {"a": 1} and outcome["seconds"] >= 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('no card')", "ValueError: no card"),
        ("print('nothing found')", "nothing found"),
        (PRINTS + "; raise SystemExit(3)", "RESULT"),
    ],
)
def test_a_part_that_fails_says_how(code, words):
    outcome = prove.in_its_own_process(python(code), limit=60)
    assert outcome["failed"].startswith("exit code") and words in outcome["said"]
    assert "FAILED" in prove.line("memory", outcome) and words in prove.line("memory", outcome)


def test_a_part_that_hangs_is_ended_with_its_children():
    """Also with those in a session of their own, as Jupyter's kernels are."""
    program = "[sys.executable, '-c', 'import time; time.sleep(98)']"
    child = f"import subprocess, sys, time; subprocess.Popen({program}, start_new_session=True)"
    began = time.monotonic()
    outcome = prove.in_its_own_process(python(child + "; time.sleep(99)"), limit=3)
    assert outcome["failed"] == "took longer than 3 s" and time.monotonic() - began < 30
    sleepers = [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(98)" in str(p.info["cmdline"])]
    assert not [p for p in sleepers if p.status() != psutil.STATUS_ZOMBIE]


def test_packages_that_the_caller_brings_are_found(monkeypatch, tmp_path):
    (tmp_path / "brought.py").write_text("value = 5\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = "import brought, course_utils; print('RESULT', brought.value)"
    assert prove.in_its_own_process(python(code), limit=60)["found"] == 5


def test_the_report_is_whole_after_each_part(tmp_path):
    report, kept = tmp_path / "build" / "gpu.json", []

    def run(name, limit):
        kept.append(list(json.loads(report.read_text())["parts"]) if report.exists() else [])
        return {"failed": "exit code 1"} if name == "memory" else {"seconds": 1.0, "found": limit}

    content = prove.prove(["doctor", "memory", "dryrun"], report, 8, run)
    assert kept == [[], ["doctor"], ["doctor", "memory"]]
    assert json.loads(report.read_text()) == content and "failed" not in content["parts"]["dryrun"]
    assert content["parts"]["doctor"]["found"] == prove.LIMITS["doctor"]


def test_what_no_time_was_left_for_is_named(tmp_path):
    content = prove.prove(["doctor", "memory"], tmp_path / "gpu.json", 0.1, run=None)
    assert content["parts"] == {name: {"failed": "no time was left"} for name in ("doctor", "memory")}


def test_all_parts_together_fit_the_promise():
    assert prove.MINUTES == 8 and max(prove.LIMITS.values()) < 60 * prove.MINUTES


def run_script(*words):
    done = subprocess.run(
        [sys.executable, "tests/gpu/prove.py", *words], cwd=prove.ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_the_rehearsal_of_a_part_runs_here(tmp_path):
    out = tmp_path / "gpu.json"
    code, said = run_script("doctor", "--rehearse", "--out", str(out))
    assert code == 0, said
    part = json.loads(out.read_text())["parts"]["doctor"]
    assert part["found"]["checks"]["ok"] and part["found"]["card"]["torch"] == torch.__version__


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so_and_proves_nothing(tmp_path):
    code, said = run_script("doctor", "--out", str(tmp_path / "gpu.json"))
    assert code == 1 and "sees no NVIDIA card" in said and "--rehearse" in said


def test_an_unknown_part_is_refused():
    code, said = run_script("tpu")
    assert code == 2 and "no part is called tpu; there are doctor, memory" in said
