"""The doctor names what is missing, damaged or mismatched, and how to cure it; it never breaks itself."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_utils import doctor
from course_utils.models import bundled, hardware


def by_name(checks) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def put(site: Path, name: str, version: str, code: str = "", requires: str = "") -> None:
    """A package as pip would leave it in `site`, with a version.py of these contents."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {requires}"] if requires else []
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (site / name).mkdir()
    (site / name / "version.py").write_text(code)


def pair(site: Path, monkeypatch, torch: tuple[str, str], vision: tuple[str, str], requires: str = "torch"):
    """The doctor's findings about these versions of torch and torchvision and their version.py."""
    put(site, "torch", *torch)
    put(site, "torchvision", *vision, requires)
    monkeypatch.syspath_prepend(str(site))
    return list(doctor.torch_pair())


CPU = "__version__ = '2.13.0+cpu'\ndebug = False\ncuda: Optional[str] = None\n"
CUDA = "__version__ = '2.13.0+cu132'\ncuda: Optional[str] = '13.2'\n"
VISION = "__version__ = '0.28.1+cu132'\nfrom torchvision.extension import x\nif x() > 0:\n    cuda = x()\n"


def test_the_report_is_complete_and_quick() -> None:
    start = time.monotonic()
    checks = by_name(doctor.examine())
    assert time.monotonic() - start < 4
    assert {"python", "packages", "torch pair", "gpu", "memory", "disk", "ffmpeg", "network"} <= set(checks)
    assert checks["python"].status == checks["packages"].status == checks["torch pair"].status == "ok"
    assert all(check.cure for check in checks.values() if check.status in ("warn", "fail"))
    report = doctor.as_dict(list(checks.values()))
    assert report["versions"]["torch"] and json.loads(json.dumps(report)) == report


def test_the_doctor_imports_nothing_heavy() -> None:
    code = "import sys; from course_utils import doctor; doctor.examine(); "
    code += "print([m for m in ('torch', 'transformers', 'matplotlib', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_torchvision_for_another_torch_is_named_with_its_symptom(tmp_path, monkeypatch) -> None:
    (check,) = pair(tmp_path, monkeypatch, ("2.13.0", CUDA), ("0.29.2", VISION), "torch==2.15.0")
    assert check.status == "fail"
    assert "requires torch==2.15.0" in check.found and "torchvision::nms" in check.found
    assert "uninstall" in check.cure


def test_a_cpu_torch_beside_a_cuda_torchvision_is_a_mismatch(tmp_path, monkeypatch) -> None:
    (check,) = pair(tmp_path, monkeypatch, ("2.13.0", CPU), ("0.28.1", VISION))
    assert check.status == "fail" and "one is built for cpu, the other for cuda 13" in check.found


@pytest.mark.parametrize(
    ("torch", "vision"),
    [
        (("2.13.0", CUDA), ("0.28.1", VISION)),
        (("2.13.0+cpu", CPU), ("0.28.1+cpu", "__version__ = '0.28.1+cpu'\n")),
        (
            ("2.13.0", "__version__ = '2.13.0'\ncuda = None\n"),
            ("0.28.1", "__version__ = '0.28.1'\n"),
        ),  # macOS
    ],
)
def test_pairs_that_belong_together_are_fine(tmp_path, monkeypatch, torch, vision) -> None:
    (check,) = pair(tmp_path, monkeypatch, torch, vision, "torch>=2.13")
    assert check.status == "ok", check.found


def test_a_missing_package_stops_the_bundled_tier(monkeypatch) -> None:
    here = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "peft" else here(name))
    checks = list(doctor.packages())
    assert [(c.name, c.status, c.found) for c in checks] == [("peft", "fail", "not installed")]
    assert "pip install" in checks[0].cure and not doctor.healthy(checks)


def test_a_version_out_of_range_is_a_warning(tmp_path, monkeypatch) -> None:
    put(tmp_path, "transformers", "4.1.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    (check,) = doctor.packages()
    assert (check.name, check.status) == ("transformers", "warn") and "4.1.0 is outside" in check.found
    assert 'pip install "transformers' in check.cure and doctor.healthy([check])


def test_requirements_come_from_metadata_without_a_checkout(tmp_path, monkeypatch) -> None:
    info = tmp_path / "genai_course-9.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: genai-course", "Version: 9", "Requires-Dist: torch>=2"]
    lines += ["Requires-Dist: nothing-of-the-kind; extra == 'lab'", "Provides-Extra: lab"]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor.colab, "ROOT", tmp_path)
    needed, optional = doctor.requirements()
    assert [r.name for r in needed] == ["torch"]
    (check,) = doctor.extras()
    assert check.status == "note" and "nothing-of-the-kind" in check.found and "[lab]" in check.cure


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """Three small bundled models with their checksums."""
    for name in bundled.NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode() * 100)
    bundled.write_sums(tmp_path)
    monkeypatch.setattr(bundled, "MODELS", tmp_path)
    return tmp_path


def test_intact_models_pass_and_a_corrupted_one_is_named(models: Path) -> None:
    (check,) = doctor.models()
    assert check.status == "ok"
    weights = models / "prisma-lm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (check,) = doctor.models()
    assert (check.name, check.status) == ("prisma-lm", "fail")
    assert "checksum" in check.found and "git checkout" in check.cure
    assert not doctor.healthy([check])


def test_a_missing_model_is_named(models: Path) -> None:
    (models / "prisma-clip" / "model.safetensors").unlink()
    (check,) = doctor.models()
    assert (check.name, check.status) == ("prisma-clip", "fail") and "no weights" in check.found


def smi(monkeypatch, *cards: str, newest: str = "13.2") -> list[doctor.Check]:
    """The findings where nvidia-smi answers like this; the format is that of driver 550 and later."""
    header = f"| NVIDIA-SMI 570.1   Driver Version: 570.1   CUDA Version: {newest} |"
    monkeypatch.setattr(doctor, "nvidia_smi", lambda *a: "".join(c + "\n" for c in cards) if a else header)
    return list(doctor.gpu())


def test_a_gpu_is_described(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "torch_build", lambda name: {"version": "2.15.0", "cuda": "13.2"})
    (check,) = smi(monkeypatch, "Tesla T4, 15360, 14913, 580.65, 7.5")
    assert check.status == "ok"
    assert "Tesla T4, 14.6 of 15.0 GiB free" in check.found and "capability 7.5" in check.found


def test_a_torch_that_cannot_use_the_gpu_is_a_warning(monkeypatch) -> None:
    card = "Tesla T4, 15360, 14913, 535.1, 7.5"
    monkeypatch.setattr(doctor, "torch_build", lambda name: {"version": "2.15.0", "cuda": "cpu"})
    assert "CPU build" in smi(monkeypatch, card)[1].found
    monkeypatch.setattr(doctor, "torch_build", lambda name: {"version": "2.15.0", "cuda": "13.2"})
    old = smi(monkeypatch, card, newest="12.4")[1]
    assert old.status == "warn" and "CUDA 13" in old.found and "update the NVIDIA driver" in old.cure


def test_little_memory_and_a_small_disk_are_named(monkeypatch) -> None:
    monkeypatch.setattr(hardware, "ram_gb", lambda: (1.5, 1.0))
    (check,) = doctor.memory()
    assert check.status == "fail"
    monkeypatch.setattr(hardware, "ram_gb", lambda: (8.0, 1.0))
    (check,) = doctor.memory()
    assert check.status == "warn" and "close other programs" in check.cure
    usage = type("Usage", (), {"free": 1.0e9})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    (check,) = doctor.disk()
    assert check.status == "note" and "HF_HOME" in check.cure and "small tier" in check.found


def test_no_network_and_no_ffmpeg_are_notes_only(monkeypatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("COURSE_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody answers
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    checks = [*doctor.network(), *doctor.ffmpeg()]
    assert [c.status for c in checks] == ["note", "note"] and doctor.healthy(checks)
    assert "doesn't answer" in checks[0].found and "HTTPS_PROXY" in checks[0].cure


def test_a_check_that_breaks_is_reported_and_the_others_go_on(monkeypatch) -> None:
    monkeypatch.setattr(hardware, "ram_gb", lambda: 1 / 0)
    checks = by_name(doctor.examine())
    assert checks["memory"].status == "warn" and "ZeroDivisionError" in checks["memory"].found
    assert "disk" in checks and "ffmpeg" in checks
