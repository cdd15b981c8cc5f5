"""Colab: the first cell, the links, and the proof that nothing there has to change."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from course_utils import colab, doctor, settings
from course_utils.finetuning import benchmarks, tracking
from course_utils.models import llama_cpp
from course_utils.workshop import colab_list, links

KEPT = ("torch", "torchvision", "numpy", "transformers", "pandas")
SOURCE = """# %% [markdown] tags=["badge"]
# # A unit
#
# [![Open In Colab](https://example.org/old.svg)](https://example.org/old)
#
# More words.

# %% tags=["bootstrap"]
print("an old first cell")

# %%
answer = 42
"""


def run_cell(folder, before=""):
    """Runs the bootstrap cell in plain Python, in `folder`, where the course is not installed."""
    probe = f"{before}\n{links.bootstrap_source()}\nprint('root', colab.ROOT)"
    hidden = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([sys.executable, "-c", hidden + probe], cwd=folder, env=alone, capture_output=True, text=True)


def test_nothing_on_colab_has_to_change():
    assert colab_list.conflicts() == []


def test_the_five_that_matter_are_on_colab_and_required():
    needed = {r.name for r in colab.requirements()}
    assert set(KEPT) <= needed and set(KEPT) <= set(colab_list.colab_packages())


@pytest.mark.parametrize("name", KEPT)
def test_a_requirement_that_colab_cannot_meet_is_found(name):
    wanted = [Requirement(f"{name}>=99")]
    assert [name in fault and "would have to change" in fault for fault in colab_list.conflicts(wanted)] == [True]


@pytest.mark.parametrize("name", KEPT)
def test_an_added_package_that_would_change_colab_is_found(name):
    added = {"newcomer": {"version": "1.0", "requires": [f"{name}<0.1"]}}
    (fault,) = colab_list.conflicts([Requirement("newcomer")], added=added)
    assert fault.startswith("newcomer needs") and name in fault


def test_a_package_that_nobody_recorded_is_found():
    (fault,) = colab_list.conflicts([Requirement("unheard-of>=1")])
    assert "not on Colab" in fault


def test_markers_are_judged_for_colab():
    assert colab_list.conflicts([Requirement('unheard-of; sys_platform == "win32"')]) == []


def test_the_record_is_what_the_packages_themselves_say():
    """Where the recorded version is installed here too, its own metadata must list the same needs."""
    compared = 0
    for name, about in json.loads(colab_list.MISSING.read_text())["packages"].items():
        here = metadata.distribution(name)
        if here.version == about["version"]:
            needs = [Requirement(line) for line in here.requires or [] if "extra ==" not in line]
            assert {str(r) for r in needs} == {str(Requirement(line)) for line in about["requires"]}
            compared += 1
    assert compared >= 3


def test_missing_and_unmet_requirements():
    everything = {"torch": "2.11.0+cu128", "numpy": "1.26.4"}
    missing = [Requirement(line).name for line in colab.missing_requirements(everything)]
    assert "torch" not in missing and "trl" in missing
    (line,) = colab.unmet_requirements(everything)
    assert line.startswith("numpy 1.26.4 is here")


def test_here_nothing_is_missing(capsys):
    assert colab.missing_requirements() == [] and colab.unmet_requirements() == []
    colab.prepare()
    assert "Nothing was fetched or installed" in capsys.readouterr().out


def test_on_colab_only_the_missing_ones_are_asked_for():
    missing = {Requirement(line).name for line in colab.missing_requirements(colab_list.colab_packages())}
    assert missing == {
        "a2a-sdk",
        "ag2",
        "aiosmtpd",
        "bitsandbytes",
        "datasketch",
        "faiss-cpu",
        "gguf",
        "langchain-openai",
        "langgraph-checkpoint-sqlite",
        "mcp",
        "open-clip-torch",
        "openai-whisper",
        "pydantic-monty",
        "pypdf",
        "rouge-score",
        "sacrebleu",
        "trl",
        "xllamacpp",
    }


def test_pip_is_told_to_keep_everything(monkeypatch, capsys):
    asked = {}

    def pip(command, **_):
        asked["command"] = command
        asked["kept"] = Path(command[command.index("-c") + 1]).read_text()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(colab.subprocess, "run", pip)
    colab.install_missing(["trl>=0.29"])
    assert asked["command"][-1] == "trl>=0.29"
    for name in KEPT:
        assert f"{name}=={metadata.version(name)}" in asked["kept"].splitlines()
    assert "network" in capsys.readouterr().out


def test_colabs_versions_are_written_for_pip():
    lines = colab_list.constraints()
    assert "torch==2.11.0" in lines and not [line for line in lines if line.startswith("nvidia-")]
    needed = colab_list.test_requirements()
    assert "torchao" in needed and any(line.startswith("nbval") for line in needed)


@pytest.fixture
def own_list(tmp_path, monkeypatch) -> Path:
    """A copy of the course's list, which a test may replace."""
    path = tmp_path / "ours.txt"
    path.write_text(colab_list.FREEZE.read_text("utf-8"), encoding="utf-8")
    monkeypatch.setattr(colab_list, "FREEZE", path)
    return path


def test_a_newer_list_is_taken_as_colab_publishes_it(own_list, tmp_path):
    pins = [f"{name}=={version}" for name, version in colab_list.colab_packages(own_list).items() if name != "trl"]
    changed = [pin if not pin.startswith("torch==") else "torch==9.9.9+cu130" for pin in pins]
    published = tmp_path / "pip-freeze.gpu.txt"
    address = "google-colab @ file:///colabtools/dist/google_colab-1.0.0.tar.gz#sha256==9"
    published.write_text("\n".join(["# generated", address, *changed, "newcomer==1.0", ""]), encoding="utf-8")
    before = colab_list.colab_packages(own_list)["torch"]
    said = colab_list.take(published, "2026-12-24")
    assert said == ["newcomer: None then, 1.0 now", f"torch: {before} then, 9.9.9+cu130 now"]
    text = own_list.read_text("utf-8")
    assert "Python 3.13" in text and "as of 2026-12-24" in text and "google-colab @" not in text
    assert colab_list.colab_packages(own_list)["torch"] == "9.9.9+cu130"


@pytest.mark.parametrize(
    ("content", "day", "said"),
    [
        ("<html>not found</html>", "2026-12-24", "is no list of Colab's packages: it has 0 pins"),
        ("torch==2.11.0\n", "2026-12-24", "it has 1 pins"),
        ("\n".join(f"p{i}==1" for i in range(200)), "2026-12-24", "torch is needed"),
        ("torch==2.11.0\n", "yesterday", "isoformat"),
    ],
)
def test_what_is_no_list_replaces_nothing(own_list, tmp_path, content, day, said):
    before = own_list.read_bytes()
    (tmp_path / "new.txt").write_text(content)
    with pytest.raises(ValueError, match=said):
        colab_list.take(tmp_path / "new.txt", day)
    assert own_list.read_bytes() == before


@pytest.mark.parametrize("words", [[], ["take"], ["take", "file"], ["renew"]])
def test_a_wrong_command_names_the_right_ones(words):
    command = [sys.executable, "-m", "course_utils.workshop.colab_list", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "take FILE DAY" in done.stderr and "record" in done.stderr


def test_the_list_says_of_which_day_it_is():
    head = colab_list.FREEZE.read_text("utf-8").splitlines()[1]
    assert re.search(r"as of 20\d\d-\d\d-\d\d\.$", head)


def test_a_failing_pip_is_explained():
    with pytest.raises(RuntimeError, match="restart the runtime"):
        colab.install_missing(["./no-such-folder-for-pip"])


def test_a_pip_that_reaches_nobody_names_kaggles_switch(monkeypatch):
    said = (
        "WARNING: Retrying\nNewConnectionError: Failed to establish a new connection\nERROR: No matching distribution"
    )
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(colab.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ConnectionError, match="On Kaggle: Settings, Internet, On"):
        colab.install_missing(["trl"])


@pytest.fixture(params=["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
def hosted(request, monkeypatch):
    monkeypatch.setenv(request.param, "x")
    return colab.host()


def test_where_the_course_runs(hosted):
    assert hosted in ("Colab", "Kaggle")


def test_at_home_nobody_is_host(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert colab.host() == ""


def test_advice_at_home_names_the_extra_or_the_package():
    assert colab.how_to_add() == "python -m pip install -c constraints.txt -e ."
    assert colab.how_to_add_extra("tracking") == 'python -m pip install -c constraints.txt -e ".[tracking]"'
    assert colab.how_to_add("wandb") == 'python -m pip install -c constraints.txt "wandb"'


def test_no_advice_on_a_hosted_machine_would_replace_what_is_there(hosted, tmp_path, monkeypatch):
    """Whoever finds something missing there, or too old, is never told to let pip choose versions."""
    advice = [colab.how_to_add(), colab.how_to_add("wandb"), colab.how_to_add_extra("benchmarks")]
    advice += [benchmarks.missing(), tracking.how_to_install(), llama_cpp.missing()]
    here = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name in ("peft", "mlflow-skinny") else here(name))
    advice += [check.cure for check in (*doctor.packages(), *doctor.extras())]
    monkeypatch.setattr(doctor, "installed", lambda name: "0.0.1")
    advice += [check.cure for check in (*doctor.packages(), *doctor.torch_pair())]
    assert len(advice) > 15 and not [line for line in advice if "pip install" in line or "uninstall" in line]


def test_extras_for_developers_are_not_offered_on_a_hosted_machine(hosted, monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    offered = {check.name for check in doctor.extras()}
    assert offered == {"extra tracking", "extra agents", "extra benchmarks"}


def test_add_installs_only_what_is_missing(monkeypatch):
    asked = []
    monkeypatch.setattr(colab, "installed", lambda: {"sqlalchemy": "2", "alembic": "1.13", "tensorboard": "2.19"})
    monkeypatch.setattr(colab, "install_missing", asked.append)
    colab.add("tracking")
    colab.add("wandb")
    assert asked == [["mlflow-skinny>=3.2"], ["wandb"]]


def test_add_says_when_nothing_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(colab, "installed", lambda: {"wandb": "1"})
    colab.add("wandb")
    assert capsys.readouterr().out == "wandb is here already.\n"


def test_tensorflow_is_told_to_be_quiet_and_a_readers_own_setting_stays(monkeypatch):
    """A library imports it where it is, and its log would stand in the notebook in red."""
    for own, expected in ((None, "3"), ("0", "0")):
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", own or "")
        if own is None:
            monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
        colab.prepare()
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == expected


def test_no_notebook_prints_advice_of_its_own():
    """`colab.how_to_add` gives it, because on Colab another one is right."""
    texts = {path.name: path.read_text("utf-8") for path in settings.TEXT.rglob("*.py")}
    assert not [name for name, text in texts.items() if "pip install" in text]


def test_free_form_versions_are_left_out():
    assert colab.frozen({"a": "1.0+cu128", "b": "not a version"}) == ["a==1.0+cu128"]


def test_the_first_cell_is_short_python_and_takes_its_address_from_the_setting(monkeypatch):
    ast.parse(links.bootstrap_source())
    assert links.bootstrap_source().count("\n") < 20
    monkeypatch.setattr(links, "REPOSITORY", "somebody/fork")
    assert '"https://github.com/somebody/fork"' in links.bootstrap_source()
    assert "github/somebody/fork/blob" in links.badge("7.1_multimodal_ai.py")


def test_the_first_cell_finds_the_course_from_a_folder_below(tmp_path):
    done = run_cell(settings.ROOT / "tests")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"root {settings.ROOT}"


def test_the_first_cell_says_what_it_could_not_fetch(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "address", lambda: (tmp_path / "nobody").as_uri())
    done = run_cell(tmp_path)
    assert done.returncode and "Fetching the course from" in done.stdout and "nobody" in done.stderr


def test_without_a_network_the_first_cell_names_kaggles_switch(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "address", lambda: (tmp_path / "nobody").as_uri())
    done = run_cell(tmp_path, "import os; os.environ['KAGGLE_KERNEL_RUN_TYPE'] = 'Interactive'")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ConnectionError") and "On Kaggle: Settings, Internet, On." in last


def test_on_colab_the_first_cell_fetches_the_course_once(tmp_path, monkeypatch):
    """A repository on disk stands in for the real address; the rest is the cell as it is."""
    origin = tmp_path / "origin"
    (origin / "course_utils").mkdir(parents=True)
    (origin / "course_utils" / "__init__.py").write_text("")
    (origin / "course_utils" / "colab.py").write_text("ROOT = __file__\ndef prepare(): print('prepared')\n")
    git = ["git", "-C", str(origin), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q", "-b", settings.BRANCH], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(links, "address", lambda: origin.as_uri())
    before = "import types; sys.modules['google.colab'] = types.ModuleType('google.colab')"
    content = tmp_path / "content"
    content.mkdir()
    first, second = run_cell(content, before), run_cell(content, before)
    assert "Fetching the course" in first.stdout and "prepared" in first.stdout, first.stderr
    assert "Fetching" not in second.stdout and "prepared" in second.stdout, second.stderr


def test_links_are_rewritten_from_the_setting(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks" / "text"
    folder.mkdir(parents=True)
    (folder / "7.1_multimodal_ai.py").write_text(SOURCE)
    (tmp_path / "README.md").write_text(
        "[x](https://colab.research.google.com/github/a/b/blob/c/notebooks/n.ipynb)\ngit clone https://github.com/a/b\n"
    )
    assert len(links.rewrite_links(tmp_path, check=True)) == 2
    assert (folder / "7.1_multimodal_ai.py").read_text() == SOURCE
    monkeypatch.setattr(links, "REPOSITORY", "somebody/fork")
    assert len(links.rewrite_links(tmp_path)) == 2
    text = (folder / "7.1_multimodal_ai.py").read_text()
    assert f"# {links.badge('7.1_multimodal_ai')}\n#\n# More words." in text
    assert f'# %% tags=["bootstrap"]\n{links.bootstrap_source()}\n\n# %%\nanswer = 42\n' in text
    assert "old" not in text
    assert "github/somebody/fork/blob/main/notebooks/n.ipynb" in (tmp_path / "README.md").read_text()
    assert "git clone https://github.com/somebody/fork" in (tmp_path / "README.md").read_text()
    assert links.rewrite_links(tmp_path) == []


def test_a_title_without_a_badge_gets_one(tmp_path):
    folder = tmp_path / "notebooks" / "text" / "labs"
    folder.mkdir(parents=True)
    (tmp_path / "README.md").touch()
    path = folder / "7.9_lab_new.py"
    path.write_text('# %% [markdown] tags=["badge"]\n# # Title\n\n# %%\n1\n')
    links.rewrite_links(tmp_path)
    assert path.read_text().startswith(
        f'# %% [markdown] tags=["badge"]\n# # Title\n#\n# {links.badge("labs/7.9_lab_new")}\n\n# %%'
    )


def test_the_course_itself_is_up_to_date():
    assert links.rewrite_links(check=True) == []
