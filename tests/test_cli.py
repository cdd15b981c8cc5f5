"""The `course` command: instant help, JSON that parses, plain words and exit code 2 for bad input."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import typer
from listening import addresses
from typer.testing import CliRunner

from course_utils import __version__, cli, doctor, settings
from course_utils.models import bundled
from course_utils.workshop import evaluate as evaluation
from course_utils.workshop import recorder, runner

SOURCE = '# %% [markdown]\n# # A title\n\n# %%\nprint("six", 6)\n'


HELPED = ("doctor", "run", "lab", "vram", "dryrun-7b", "models", "evaluate", "train", "progress", "notebooks", "links")
HELPED += ("record",)


def course(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A notebooks folder with one source in it, which the command uses instead of the course's own."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "7.9_small.py").write_text(SOURCE)
    monkeypatch.setattr(settings, "NOTEBOOKS", tmp_path)
    return tmp_path


def children_seconds() -> float:
    """The processor's time of all processes that we have started and that have ended. Windows does not count it: 0."""
    spent = os.times()
    return spent.children_user + spent.children_system


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    command = [sys.executable, "-m", "course_utils.cli", "--help"]
    times = []
    for _ in range(5):
        before = children_seconds()
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        times.append(children_seconds() - before)
    assert done.returncode == 0
    names = ("doctor", "run", "lab", "vram", "bench", "dryrun-7b", "models", "evaluate", "train", "progress")
    names += ("notebooks", "links", "record")
    assert all(f"  {name} " in done.stdout for name in names)
    assert min(times) < 0.3  # seconds of the processor: others may be at work beside us
    code = "import sys, course_utils.cli as c; print({'torch', 'rich.table', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "set()"


def test_the_version_is_printed() -> None:
    result = course("--version")
    assert result.exit_code == 0
    assert result.output == f"course {__version__}\n"


def test_every_command_has_help() -> None:
    for name in (*HELPED, "bench", "setup"):
        result = course(name, "--help")
        assert result.exit_code == 0 and name in result.output


def test_doctor_as_json_and_its_exit_code(monkeypatch) -> None:
    checks = [doctor.Check("python", "ok", "3.11"), doctor.Check("ffmpeg", "note", "not found", "install it")]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    result = course("doctor", "--json")
    report = json.loads(result.output)
    assert result.exit_code == 0 and report["ok"] and report["checks"][1]["cure"] == "install it"
    assert "The bundled tier runs here" in course("doctor").output
    checks.append(doctor.Check("torch", "fail", "not installed", "pip install torch"))
    result = course("doctor")
    assert result.exit_code == 1 and "pip install torch" in result.output
    assert json.loads(course("doctor", "--json").output)["ok"] is False


@pytest.mark.parametrize(
    ("how", "layers", "bounds"), [((), 4, (2, 3.2)), (("--quick",), 32, (4, 8))], ids=["simulated", "quick"]
)
def test_vram_as_table_and_json(how: tuple, layers: int, bounds: tuple, tmp_path: Path) -> None:
    """Mistral 7B by the formula; by simulation its first layers, because each takes a second."""
    from course_utils.memory import shapes, simulate

    shape = dataclasses.replace(shapes.architecture("mistral-7b"), layers=layers)
    file = tmp_path / "config.json"
    file.write_text(simulate.transformers_config(shape).to_json_string())
    setting = ("vram", *how, str(file), "--method", "qlora", "--seq", "512", "--batch", "1")
    table = course(*setting, "--gpu", "t4")
    assert table.exit_code == 0 and "weights" in table.output and "fits: needs" in table.output
    report = json.loads(course(*setting, "--gpu", "t4", "--json").stdout)
    assert bounds[0] < report["total"] < bounds[1] and report["verdict"]["fits"] is True
    full = json.loads(course("vram", *how, str(file), "--method", "full", "--gpu", "t4", "--json").stdout)
    assert full["verdict"]["fits"] is False and full["verdict"]["advice"]


def test_vram_simulates_the_step() -> None:
    setting = ("vram", "--model", "prisma-lm", "--method", "qlora", "--seq", "256", "--gpu", "t4")
    table = course(*setting)
    assert table.exit_code == 0 and "at the peak" in table.output and "Largest that fits: " in table.output
    report = json.loads(course(*setting, "--json").stdout)
    simulated = sum(report["simulated"]["peak"].values())
    assert simulated == pytest.approx(report["total"] - report["margin"], rel=0.15)
    assert report["verdict"]["needed"] == pytest.approx(0.6 + 1.05 * simulated)


def test_vram_says_what_can_only_be_estimated() -> None:
    result = course("vram", "--model", "mistral-7b", "--method", "inference-q4_k_m", "--gpu", "t4")
    assert result.exit_code == 0 and "can't be simulated" in result.stderr and "fits" in result.stdout


def vram_of(file: Path, *more: str):
    return course("vram", str(file), "--gpu", "t4", *more)


def test_vram_takes_the_configuration_of_a_kind_with_a_formula(tmp_path: Path) -> None:
    config = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 300}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    table = vram_of(file, "--quick")
    assert table.exit_code == 0 and "Formula: qwen3" in table.stdout
    assert "Longest context that fits on Tesla T4: " in table.stdout and "tokens a second" in table.stdout
    report = json.loads(vram_of(file, "--quick", "--json").stdout)
    bytes_a_token = 3 * 2 * 2 * 16 * 2
    room = (14.7 - 0.6) / 1.05 * 2**30
    assert report["longest context"] == pytest.approx(room / bytes_a_token, rel=1e-3)


def test_vram_counts_a_kind_without_a_formula(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 300, "n_positions": 128}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    table = vram_of(file)
    assert table.exit_code == 0 and "No formula for 'gpt2'" in table.stderr
    assert "Counted: gpt2 (GPT2LMHeadModel)" in table.stdout and "Simulation (GiB)" in table.stdout
    report = json.loads(vram_of(file, "--quick", "--json").stdout)
    layer = 4 * 64 + 4 * 64 * 64 + 4 * 64 + 2 * 4 * 64 * 64 + 5 * 64
    assert report["parameters"] == (300 + 128) * 64 + 3 * layer + 2 * 64
    assert sum(one["a_token"] for one in report["cache"]) == 3 * 2 * 64 * 2
    assert report["context"] == 128 and report["tokens a second at most"] > 1000


def test_vram_reads_a_gguf_file(tmp_path: Path) -> None:
    from course_utils.memory import shapes
    from course_utils.models import gguf_file

    file = gguf_file.write_gguf(settings.MODELS / "prisma-lm", tmp_path / "prisma.gguf")
    table = vram_of(file)
    assert table.exit_code == 0 and "weights in F16" in table.stdout and "tokens a second" in table.stdout
    report = json.loads(vram_of(file, "--json").stdout)
    assert report["parameters"] == shapes.parameter_count("prisma-lm")
    refused = vram_of(file, "--method", "qlora")
    assert refused.exit_code == 2 and "leave --method out" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("somebody/model",), "the config.json of somebody/model is not in the cache"),
        (("nope",), "owner/name"),
        (("mistral-7b", "--model", "mistral-7b"), "Name one model"),
    ],
)
def test_vram_says_where_a_model_can_come_from(arguments: tuple, said: str) -> None:
    result = course("vram", *arguments, "--gpu", "t4", "--quick")
    assert result.exit_code == 2 and said in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_vram_refuses_what_it_does_not_understand(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for config, said in [
        ({"model_type": "never heard of", "num_hidden_layers": 2}, "'never heard of'"),
        ({"model_type": "gpt2", "n_layer": 10**9}, "n_layer in the configuration is 1000000000"),
        ({"model_type": "gpt2", "n_layer": 2, "n_embd": "wide"}, "'gpt2'"),
    ]:
        file.write_text(json.dumps(config))
        result = vram_of(file, "--quick")
        assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output


def test_bench_vram_as_table_and_json(monkeypatch) -> None:
    from course_utils.memory import measurement, shapes
    from course_utils.memory.simulate import Step

    one = measurement.Comparison(Step(shapes.architecture("prisma-lm"), "lora"), 0.2, 0.101, 0.1, 0.1, 0.1)
    monkeypatch.setattr(measurement, "compare", lambda steps, cuda: [one])
    result = course("bench", "vram")
    assert result.exit_code == 0 and "No NVIDIA card" in result.stderr
    assert "+1.0%" in result.stdout and "at most 1.0% off" in result.stdout
    report = json.loads(course("bench", "vram", "--json").stdout)
    assert report["peaks (GiB)"][0]["simulated"] == 0.101


def test_dryrun_passes_its_options_on_and_says_what_does_not_fit(monkeypatch) -> None:
    from course_utils.finetuning import dryrun, qlora

    got = []

    def run(machine, *options):
        got.append(options)
        if options[1] is None:
            raise qlora.NotEnoughMemoryError("needs more")
        return dryrun.Report("shape", "2 CPU cores", 2, 64, 1.0, [8.0], [10.0], 2.0, 1.5)

    monkeypatch.setattr(dryrun, "run", run)
    result = course("dryrun-7b", "--layers", "2", "--steps", "3", "--tokens", "64", "--plain")
    assert result.exit_code == 0 and "RANDOM" in result.output and got == [("mistral-7b", 2, 3, 64, True)]
    assert json.loads(course("dryrun-7b", "--layers", "2", "--json").output)["tokens_per_second"] == [10.0]
    refused = course("dryrun-7b")
    assert refused.exit_code == 1 and "needs more" in refused.output


def test_models_as_table_and_json() -> None:
    rows = json.loads(course("models", "--json").output)
    chosen = [row for row in rows if row["chosen"]]
    assert {row["role"] for row in chosen} == {"image-text", "speech", "translation", "chat", "embedding"}
    assert all(row["reason"] for row in chosen) and len(rows) > len(chosen)
    table = course("models").output
    assert "prisma-clip" in table and "chosen" in table and "licence" in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("vram", "--model", "nope", "--method", "qlora", "--gpu", "t4"), "mistral-7b"),
        (("vram", "--model", "mistral-7b", "--method", "nope", "--gpu", "t4"), "qlora"),
        (("vram", "--model", "mistral-7b", "--method", "qlora", "--gpu", "nope"), "t4"),
        (("vram", "--model", "mistral-7b", "--method", "qlora", "--seq", "0", "--gpu", "t4"), "at least 1"),
        (("vram", "--model", "mistral-7b", "--method", "qlora", "--seq", "many"), "seq"),
        (("vram",), "--model"),
        (("run", "8.8"), "no notebook for '8.8'"),
        (("run", "--tier", "huge"), "bundled, small, full"),
        (("run", "--out", "/dev/null/x"), "another folder"),
        (("notebooks", "8.8"), "no notebook"),
        (("train", "prisma-opera"), "prisma-clip, prisma-whisper, prisma-lm"),
        (("train", "prisma-lm", "--minutes", "nan"), "--minutes is nan; give the minutes to train"),
        (("train", "prisma-lm", "--minutes", "inf"), "a number above 0"),
        (("train", "prisma-lm", "--minutes=-1"), "a number above 0"),
        (("train", "prisma-lm", "--minutes", "0"), "a number above 0"),
        (("frobnicate",), "No such command"),
        (("doctor", "--frob"), "No such option"),
    ],
)
def test_bad_input_is_answered_plainly(folder, arguments, said) -> None:
    result = course(*arguments)
    assert result.exit_code == 2
    assert said in result.output and "Traceback" not in result.output


def test_vram_says_what_a_configuration_lacks(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 1000}))
    result = course("vram", "--model", str(tmp_path), "--method", "qlora", "--gpu", "t4")
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "this llama model has no intermediate_size" in " ".join(result.output.replace("│", " ").split())


def test_a_wrong_tier_in_the_environment_is_bad_input(monkeypatch) -> None:
    monkeypatch.setenv("COURSE_TIER", "huge")
    result = course("models")
    assert result.exit_code == 2 and "huge" in result.output


def test_run_shows_a_table_and_writes_pages(folder: Path, tmp_path: Path) -> None:
    result = course("run", "7.9", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in ("7.9_small", "wall time", "peak memory", "bundled", "passed"))
    assert "six 6" in (tmp_path / "out" / "7.9_small.html").read_text()


def test_run_fails_with_notebook_cell_and_cause(folder: Path, tmp_path: Path) -> None:
    (folder / "text" / "7.8_bad.py").write_text("# %%\n1\n\n# %%\nprice = stock['cube']\n")
    result = course("run", "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "7.8_bad failed in cell [2] `price = stock['cube']`: NameError: name 'stock'" in said
    assert "7.9_small: 1 cells" in said


@pytest.mark.parametrize("text", ["[/x] [red]", r"\[/x]", r"\\[/x]"])
def test_brackets_in_a_failure_are_no_markup(text: str, folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Also behind a backslash, which would undo one that escapes the bracket."""
    failure = runner.Failure(1, f"raise ValueError('{text}')", f"ValueError: {text}")
    failed = runner.Result("7.9_small", "bundled", 1, 1.0, 1, failure)
    monkeypatch.setattr(runner, "run", lambda *_, **__: [failed])
    result = course("run", "--out", str(tmp_path / "out"))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert f"ValueError: {text}" in " ".join(result.output.split())


def test_notebooks_builds_and_checks(folder: Path) -> None:
    before = course("notebooks", "--check")
    assert before.exit_code == 1 and "7.9_small.ipynb is missing" in before.output
    assert course("notebooks").exit_code == 0
    assert course("notebooks", "--check").exit_code == 0
    (folder / "text" / "7.9_small.py").write_text(SOURCE.replace("6)", "7)"))
    after = course("notebooks", "--check", "7.9")
    assert after.exit_code == 1 and "cell 2 differs in its source" in after.output


def test_a_build_that_fails_names_the_cell_and_others_are_built(folder: Path) -> None:
    (folder / "text" / "7.8_bad.py").write_text("# %%\n1 / 0\n")
    result = course("notebooks")
    assert result.exit_code == 1
    assert "7.8_bad failed in cell [1]" in result.output and "built 7.9_small.ipynb" in result.output


def test_links_check_says_what_is_out_of_date(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    (tmp_path / "README.md").touch()
    page = tmp_path / "notebooks" / "text" / "7.9_small.py"
    page.parent.mkdir(parents=True)
    page.write_text('# %% [markdown] tags=["badge"]\n# # A title\n')
    result = course("links", "--check")
    assert result.exit_code == 1 and "7.9_small.py" in result.output and "colab" not in page.read_text()
    assert course("links").exit_code == 0 and "colab" in page.read_text()
    assert course("links", "--check").exit_code == 0


def test_record_passes_its_options_on_and_says_what_fails(monkeypatch, tmp_path: Path) -> None:
    asked = []

    def record(name: str, weights: Path | None) -> Path:
        asked.append((name, weights))
        if name == "broken":
            raise recorder.RecordingError("cell 1 `x` failed: NameError")
        return tmp_path / f"{name}.json"

    monkeypatch.setattr(recorder, "record", record)
    monkeypatch.setattr(recorder, "sections", lambda: {"b": (), "a": ()})
    assert "a.json" in course("record").stdout
    assert "w.json" in course("record", "w", "--weights", str(tmp_path)).stdout
    assert asked == [("a", None), ("b", None), ("w", tmp_path)]
    failed = course("record", "broken")
    assert failed.exit_code == 1 and "NameError" in failed.stderr


def test_record_answers_an_unknown_name_plainly() -> None:
    done = course("record", "whispr")
    assert done.exit_code == 2
    assert "no plain cells are called 'whispr'; there are " in done.stderr


def test_train_passes_its_options_on(monkeypatch) -> None:
    got = {}

    class Recipe:
        @staticmethod
        def train(**options):
            got.update(options)
            return Path("build/train/prisma-lm")

    monkeypatch.setattr(cli, "recipe_of", lambda name: Recipe)
    monkeypatch.setattr(evaluation, "verdict", lambda name, folder: f"{name} in {folder}: Not better")
    result = course("train", "prisma-lm", "--minutes", "0.5", "--resume")
    assert result.exit_code == 0 and "prisma-lm in build/train/prisma-lm: Not better" in result.output
    assert got == {"device": "cpu", "resume": True, "minutes": 0.5}


@pytest.mark.parametrize("name", bundled.NAMES)
def test_every_bundled_model_has_a_recipe_with_these_options(name: str) -> None:
    import inspect

    parameters = inspect.signature(cli.recipe_of(name).train).parameters
    assert {"minutes", "device", "resume"} <= set(parameters)


def test_evaluate_as_table_and_json(monkeypatch) -> None:
    from course_utils import measures

    def evaluate_all(seed: int) -> dict:
        return {"prisma-toy": {"orders": measures.share([True] * 50 + [False] * seed), "extra": measures.share([True])}}

    monkeypatch.setattr(evaluation, "evaluate_all", evaluate_all)
    monkeypatch.setattr(evaluation, "BARS", {"prisma-toy": {"orders": 0.9}})
    report = json.loads(course("evaluate", "--seed", "3", "--json").output)["prisma-toy"]
    assert report["orders"]["n"] == 53 and report["orders"]["reached"] is True
    assert report["extra"]["reached"] is None and report["extra"]["bar"] == ""
    output = course("evaluate", "--seed", "11").output
    assert "at least 0.9" in output and "no" in output.split("at least 0.9")[1]


def test_json_has_no_word_for_what_is_no_number(monkeypatch, capsys) -> None:
    cli.show_json({"loss": float("nan"), "speeds": [float("inf"), 2.5], "deep": ({"x": -float("inf")},)})
    written = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert written == {"loss": None, "speeds": [None, 2.5], "deep": [{"x": None}]}


def progress_in(place: str, encoding: str = "utf-8", *options: str) -> subprocess.CompletedProcess:
    """`course progress` (which needs no torch) with its output sent to `place`, in a shell."""
    words = [sys.executable, "-m", "course_utils.cli", "progress", *options]
    line = f"{shlex.join(words)} {place}"
    env = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(["bash", "-c", line], env=env, capture_output=True, timeout=60)


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("| head -1", 0, ""),
        ("| true; exit ${PIPESTATUS[0]}", 1, ""),
        ("> /dev/full", 1, "the output could not be written (No space left on device); free some room"),
        (">&-", 0, ""),
    ],
)
def test_an_output_that_takes_no_more_ends_in_order(place: str, code: int, said: str) -> None:
    if "/dev/full" in place and not os.path.exists("/dev/full"):
        pytest.skip("no such device here")
    done = progress_in(place)
    errors = done.stderr.decode()
    assert done.returncode == code and said in errors
    assert "Traceback" not in errors and "Exception ignored" not in errors and bool(errors) == bool(said)


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_every_encoding_can_be_printed_in(encoding: str) -> None:
    done = progress_in("", encoding)
    assert done.returncode == 0 and done.stderr == b"" and b"7.1.zero_shot" in done.stdout
    report = progress_in("", encoding, "--json")
    assert json.loads(report.stdout.decode(encoding))["exercises"]


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
def test_sigterm_ends_long_work_in_order() -> None:
    before, ended = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(typer.Exit) as caught, cli.interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            ended.append("cleaned up")
    assert caught.value.exit_code == 130 and ended == ["cleaned up"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(os.name == "nt", reason="JupyterLab takes the command's place only on POSIX")
def test_lab_listens_on_loopback_only_and_wants_its_token(tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab")
    config = {"ServerApp": {"allow_root": True, "open_browser": False}}
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.json").write_text(json.dumps(config))
    env = os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path)}
    env |= {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "course_utils.cli", "lab"], env=env, stdout=log, stderr=log)
    try:
        server = _server(tmp_path / "run", process)
        assert addresses(psutil.Process(process.pid)) <= {"127.0.0.1", "::1"}
        place = f"http://127.0.0.1:{server['port']}/api/contents"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(place, timeout=20)
        answer = urllib.request.urlopen(f"{place}?token={server['token']}", timeout=20)
        assert "notebooks" in [entry["name"] for entry in json.load(answer)["content"]]
        assert "/lab/tree/notebooks" in (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _server(runtime: Path, process: subprocess.Popen) -> dict:
    """What a starting Jupyter server writes about itself: port and token."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            if text := file.read_text():
                return json.loads(text)
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab didn't start: {(runtime.parent / 'log').read_text()}")
