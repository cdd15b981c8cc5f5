import os
import random
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from course_utils import doctor, settings, unit
from course_utils.models import bundled, catalogue, offline, roles, tiers
from course_utils.models.hardware import Hardware
from course_utils.settings import SEED
from course_utils.unit import UNITS, open_unit

LAPTOP = Hardware("cpu", "float32", "this CPU has no fast 16-bit units", 16, 10, cores=8, network=True)
EMULATED = "compute capability 7.5 is below 8.0, so bfloat16 would be emulated"
CARD = {"gpu": "Tesla T4", "gpu_total_gb": 14.75, "gpu_free_gb": 14.6, "capability": (7, 5)}
T4 = replace(LAPTOP, device="cuda", dtype="float16", dtype_reason=EMULATED, **CARD)
MACHINES = {"laptop": LAPTOP, "offline": replace(LAPTOP, network=False), "t4": T4}


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def machine(monkeypatch):
    """A function that puts the course on another machine."""

    def put(hardware: Hardware) -> None:
        monkeypatch.setattr(unit, "detect", lambda tier=None: hardware)

    put(LAPTOP)
    return put


THEIR_WARNING = re.compile(r"^\S*site-packages.*Warning:(?:.*\n)+?  .*\n", re.MULTILINE)


def python(code: str, **environment: str) -> str:
    """What a fresh Python prints; fails on anything on stderr but warnings in other packages' own lines."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "COURSE_", "MPL", "XDG"))}
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], env=clean | environment, capture_output=True, text=True
    )
    said = THEIR_WARNING.sub("", done.stderr)
    assert done.returncode == 0 and said == "", said
    lines = done.stdout.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Note: PEFT needs torchao"))  # as on Colab


# ---------------------------------------------------------------- the card


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("where", MACHINES)
@pytest.mark.parametrize("tier", [None, "bundled"])
def test_the_card_is_a_small_box_of_plain_text(machine, capsys, name, where, tier):
    machine(MACHINES[where])
    opened = open_unit(name, tier)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 14
    assert {len(line) for line in lines} == {unit.WIDTH}
    assert lines[0].startswith("┌ Unit " + name) and lines[-1].startswith("└")
    text = "\n".join(lines)
    for role, choice in opened.choices.items():
        assert f"│ {role} " in text and choice.model.id in text
    assert "about a minute" in text or re.search(r"about \d+ minutes", text)


def test_the_card_tells_machine_number_format_and_download(machine, capsys):
    machine(T4)
    open_unit("7.3")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Tesla T4, 14.6 of 14.8 GiB free" in text
    assert "float16: compute capability 7.5 is below 8.0" in text
    assert "chat full: Qwen/Qwen3-8B (15 GiB free)" in text
    assert "18.1 GB when first used: Qwen3-8B 16.4, CLIP-ViT-L-14-laion2B-s32B-b82K 1.7" in text
    assert "and 30 to download at 10 MB/s" in text


def test_without_a_network_the_card_promises_no_download(machine, capsys):
    machine(MACHINES["offline"])
    open_unit("7.1")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "download nothing" in text and "network none; everything here works without" in text
    assert "bundled models know only the shop Prisma" in text


@pytest.fixture
def hub(monkeypatch) -> list:
    """Every look-up of the hub that is made, with nobody asking for no network."""
    asked = []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(offline, "network_reachable", lambda: bool(asked.append("hub") or True))
    return asked


def test_at_the_bundled_tier_the_hub_is_not_asked(hub, monkeypatch, capsys):
    open_unit("7.4", "bundled")
    monkeypatch.setenv("COURSE_TIER", "bundled")
    open_unit("7.4")
    unit.overview()
    doctor.examine()
    assert hub == []
    assert capsys.readouterr().out.count("not asked: the bundled tier needs none") == 2


def test_a_look_up_of_the_hub_is_on_the_card(hub, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_TIER", "bundled")
    open_unit("7.4", "small")  # the argument goes before the setting
    assert hub == ["hub"] and "asked https://huggingface.co: it answers" in capsys.readouterr().out


# ---------------------------------------------------------------- what it returns


def test_a_unit_has_what_a_notebook_needs(machine, capsys):
    opened = open_unit("7.1")
    assert set(opened.choices) == {"image-text", "speech"}
    assert (opened.hardware, opened.device, opened.seed) == (LAPTOP, "cpu", SEED)
    (opened.folder / "notes.txt").write_text("x")
    assert open_unit("7.1").folder != opened.folder


def test_unknown_units_are_named():
    with pytest.raises(ValueError, match=r"There is no unit '7.9'. Units are 7.1 \(Multimodal AI\)"):
        open_unit("7.9")


def test_a_misspelt_tier_is_told_before_anything_slow(monkeypatch):
    monkeypatch.setattr(unit, "detect", lambda: pytest.fail("looked at the machine first"))
    with pytest.raises(ValueError, match="bundled, small, full"):
        open_unit("7.1", tier="tiny")


def test_opening_seeds_everything(machine, capsys):
    def draw():
        open_unit("7.4")
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()


def test_what_one_model_takes_is_not_offered_to_the_next(machine, capsys):
    machine(replace(T4, gpu_total_gb=14, gpu_free_gb=13.5))
    choices = open_unit("7.3").choices
    assert choices["chat"].tier == "full"
    assert (choices["image-text"].tier, choices["image-text"].reason) == (
        "small",
        "not full: it needs 2.5 GiB, 1.5 are free",
    )


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return tiny.prisma(tmp_path_factory.mktemp("models"))


def test_models_are_loaded_once(machine, monkeypatch, untrained, capsys):
    monkeypatch.setattr(bundled, "MODELS", untrained)
    opened = open_unit("7.1", "bundled")
    speech = opened.load("speech")
    assert isinstance(speech, roles.Speech)
    assert opened.load("speech") is speech


def test_a_role_beyond_the_plan_can_be_loaded(machine, monkeypatch, untrained, capsys):
    monkeypatch.setattr(bundled, "MODELS", untrained)
    machine(MACHINES["offline"])
    opened = open_unit("7.4")
    assert isinstance(opened.load("embedding"), roles.Embedder)
    assert opened.choices["embedding"].tier == "bundled"


def test_a_tier_that_was_asked_for_holds_for_later_roles(machine, monkeypatch, untrained, capsys):
    monkeypatch.setattr(bundled, "MODELS", untrained)
    assert tiers.choose("translation", LAPTOP).tier == "small"
    assert open_unit("7.1", "bundled").load("translation").tier == "bundled"


def test_after_a_fallback_the_choice_tells_the_truth(machine, monkeypatch, untrained, capsys):
    monkeypatch.setattr(bundled, "MODELS", untrained)
    opened = open_unit("7.4")
    assert opened.choices["chat"].tier == "small"
    assert opened.load("chat").tier == "bundled"  # the tests run offline
    assert opened.choices["chat"] == tiers.Choice(
        "chat", "bundled", catalogue.find("chat", "bundled"), "instead of Qwen/Qwen3-0.6B"
    )
    assert "the course runs offline" in capsys.readouterr().out


# ---------------------------------------------------------------- what it does to the process


def test_offline_is_set_before_the_hub_is_imported():
    out = python(
        """
import socket
from course_utils import open_unit
unit = open_unit("7.4")
import huggingface_hub.constants, os
print(huggingface_hub.constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"])
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except ConnectionError as error:
    print(error)
""",
        COURSE_OFFLINE="1",
    )
    assert "True 1" in out and "unset COURSE_OFFLINE" in out
    assert "switched off (COURSE_OFFLINE)" in out


def test_the_hub_is_told_when_there_is_no_network_and_when_it_is_back(machine, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    machine(MACHINES["offline"])
    open_unit("7.4")
    assert constants.HF_HUB_OFFLINE is True
    machine(LAPTOP)
    open_unit("7.4")
    assert constants.HF_HUB_OFFLINE is False


def test_a_users_own_offline_setting_is_kept(machine, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    open_unit("7.4")
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_the_scratch_folder_is_gone_afterwards():
    out = python(
        'from course_utils import open_unit; u = open_unit("7.4")\n(u.folder / "x").write_text("x"); print(u.folder)',
        COURSE_OFFLINE="1",
    )
    folder = Path(out.splitlines()[-1])
    assert folder.name.startswith("genai-7.4-") and not folder.exists()


def test_a_home_that_cannot_be_written_is_no_trouble():
    out = python(
        """
from course_utils import open_unit
open_unit("7.4")
import matplotlib, os
from pathlib import Path
for path in (matplotlib.get_cachedir(), os.environ["HF_HOME"], os.environ["NUMBA_CACHE_DIR"]):
    Path(path).mkdir(parents=True, exist_ok=True)
    (Path(path) / "probe").write_text("x")
    (Path(path) / "probe").unlink()
    print("writable", path)
""",
        COURSE_OFFLINE="1",
        HOME="/proc/nowhere",
    )
    assert out.count("writable") == 3 and "/proc/nowhere" not in out


# What a container without an entry for its user looks like: no HOME, and nobody knows the name.
NOBODY = """
import os, pwd
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
"""


@pytest.mark.skipif(os.name == "nt", reason="users of POSIX")
def test_a_user_without_name_and_home_is_no_trouble(tmp_path):
    out = python(
        NOBODY
        + """
from course_utils import cli, doctor, open_unit, settings
from course_utils.models import hardware
from course_utils.workshop import runner
from course_utils.exercises import progress
assert doctor.healthy(doctor.examine())
open_unit("7.4", "bundled")
import getpass, IPython, matplotlib
from pathlib import Path
print("named", getpass.getuser())
places = [matplotlib.get_cachedir(), IPython.paths.get_ipython_dir(), hardware.hub_cache(), progress.file()]
for place in [*places, settings.cache_dir(), Path.home()]:
    assert Path(place).is_relative_to(settings.private_folder()), place
assert runner.kernel_environment(settings.private_folder() / "run", "bundled", "mark")["HOME"]
""",
        COURSE_OFFLINE="1",
        TMPDIR=str(tmp_path),
    )
    assert f"named user{os.geteuid()}" in out
    (folder,) = tmp_path.glob("genai-course-*")
    assert folder.stat().st_mode & 0o777 == 0o700


def prepared(kind: str, folder: Path) -> None:
    """What somebody else may have left where our private folder would be."""
    if kind == "link":
        folder.symlink_to(folder.parent / "theirs", target_is_directory=True)
    elif kind == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777 if kind == "open" else 0o700)
    if kind == "theirs":
        os.chown(folder, 12345, 12345)


@pytest.mark.skipif(os.name == "nt", reason="owners and modes of POSIX")
@pytest.mark.parametrize("kind", ["link", "file", "open", "theirs"])
def test_a_folder_that_somebody_else_prepared_is_refused(tmp_path, monkeypatch, capsys, kind):
    if kind == "theirs" and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "temporary").mkdir()
    planted = tmp_path / "temporary" / f"genai-course-{os.geteuid()}"
    prepared(kind, planted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    cache = settings.cache_dir()
    assert not cache.is_relative_to(planted) and cache.is_relative_to(tmp_path / "temporary")
    assert settings.private_folder().stat().st_mode & 0o777 == 0o700
    assert settings.cache_dir() == cache  # the same one for the rest of the session
    assert capsys.readouterr().err.count(f"{planted} is not a private folder of yours") == 1
    assert list((tmp_path / "theirs").iterdir()) == []


def test_our_own_private_folder_is_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = settings.private_folder()
    (first / "kept").touch()
    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(again))
    assert settings.private_folder().parent == again
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert settings.private_folder() == first and (first / "kept").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_the_card_can_be_printed_in_any_encoding(encoding):
    code = 'from course_utils import open_unit; open_unit("7.4", "bundled"); print("→ 7 ✓")'
    out = python(code, COURSE_OFFLINE="1", PYTHONIOENCODING=f"{encoding}:strict")
    assert out.startswith("+ Unit 7.4  Self-hosting -") and out.splitlines()[-1] == "> 7 ?"


def test_the_card_says_that_the_pace_is_quick(monkeypatch):
    """A reader who left it switched on must not take what follows for results."""
    monkeypatch.delenv("COURSE_PACE", raising=False)
    assert "COURSE_PACE" not in unit.card(unit.open_unit("7.5", tier="bundled"))
    monkeypatch.setenv("COURSE_PACE", "quick")
    assert "COURSE_PACE=quick: a tenth of each training" in unit.card(unit.open_unit("7.5", tier="bundled"))
