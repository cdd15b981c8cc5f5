"""The recorder, and the recordings that come with the course: of the notebooks' own lines, whole, and small."""

import ast
import datetime
import re
import symtable
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import tiny

from course_utils import recordings, settings
from course_utils.workshop import notebooks, recorder, runner

NOT_YET = {"clip"}  # no weights were to be had where the others were recorded
SECTIONS = recorder.sections()
RECORDED = sorted(set(SECTIONS) - NOT_YET)

TWO_CELLS = """# %%
# %%real small
import json

three = len(open("voice.wav").read())
print(json.dumps(three))

# %%
print("an ordinary cell")

# %%
# %%real small
three + 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Notebooks with two plain cells, and an empty folder of recordings, instead of the course's own."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "7.9_small.py").write_text(TWO_CELLS)
    monkeypatch.setattr(settings, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(recordings, "FOLDER", tmp_path / "recordings")
    return tmp_path


# ---------------------------------------------------------------- the course's recordings


def test_every_recording_belongs_to_a_section() -> None:
    assert recordings.names() == RECORDED


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_is_of_the_lines_that_the_notebook_shows(name: str) -> None:
    source, codes = SECTIONS[name]
    recording = recordings.read(name)  # refuses one that was edited
    assert recording.notebook == source.stem
    assert [cell.code for cell in recording.cells] == codes, f"`course record {name}` makes it anew"


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_is_whole_and_plausible(name: str) -> None:
    recording = recordings.read(name)
    made = datetime.date.fromisoformat(recording.date)
    assert datetime.date(2026, 1, 1) <= made <= datetime.date.today()
    assert "cores" in recording.machine
    assert "torch" in recording.packages
    assert recording.models, "it names no model"
    for part in (*recording.models, *recording.files):
        assert re.fullmatch(r"[0-9a-f]{64}", part["sha256"])
        assert part["size"] > 0 and part["source"]
    assert all(model["size"] > 10**7 for model in recording.models)  # weights, not a stand-in
    assert all(cell.processor >= 0 and 0 <= cell.seconds < 3600 for cell in recording.cells)
    assert any(cell.outputs for cell in recording.cells)


def test_recordings_are_small_and_name_no_place_of_their_machine() -> None:
    files = list(recordings.FOLDER.glob("*.json"))
    assert sum(path.stat().st_size for path in files) < recorder.LIMIT
    for path in files:
        text = path.read_text("utf-8")
        assert not re.search(r"/(home|root|tmp|Users)/", text), path.name


# ---------------------------------------------------------------- the plain cells


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_plain_cells_use_nothing_of_the_course(name: str) -> None:
    for code in SECTIONS[name][1]:
        assert "course_utils" not in code
        assert code.strip().count("\n") <= 25
        ast.parse(code)


def scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    """A scope and all scopes in it."""
    yield table
    for child in table.get_children():
        yield from scopes(child)


def bound(code: str) -> set[str]:
    """The names to which some code gives a value; a function's own names are not among them."""
    symbols = symtable.symtable(code, "cell", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_namespace()}


def used(code: str) -> set[str]:
    """The names of the notebook that some code uses, in its functions, too."""
    names = set()
    top = symtable.symtable(code, "cell", "exec")
    for scope in scopes(top):
        symbols = [symbol for symbol in scope.get_symbols() if symbol.is_global() or scope is top]
        names |= {symbol.get_name() for symbol in symbols if symbol.is_referenced()}
    return names


@pytest.mark.parametrize("source", sorted({source for source, _ in SECTIONS.values()}), ids=lambda path: path.stem)
def test_plain_cells_take_no_name_that_a_later_cell_still_needs(source: Path) -> None:
    """At the small tier they run among the notebook's own names."""
    taken: set[str] = set()
    for cell in runner.read(source).cells:
        if cell.cell_type != "code":
            continue
        first, _, code = cell.source.partition("\n")
        if first.startswith(recordings.MAGIC):
            taken |= bound(code)
            continue
        own = bound(cell.source)
        lost = (taken & used(cell.source)) - own
        assert not lost, f"{runner.first_line(cell.source)} needs {lost}"
        taken -= own


def test_the_first_line_is_a_comment_in_the_text_and_a_magic_in_the_notebook() -> None:
    for source, _ in SECTIONS.values():
        shown = [cell.source for cell in notebooks.convert(source).cells if recordings.MAGIC in cell.source]
        assert shown and all(text.startswith(f"{recordings.MAGIC} ") for text in shown)


# ---------------------------------------------------------------- recording


def test_recording_runs_the_lines_in_an_empty_folder_and_keeps_what_they_gave(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    (weights / "files").mkdir(parents=True)
    (weights / "files" / "voice.wav").write_bytes(b"abc")
    (weights / "files" / "SOURCE.txt").write_text("from a test\n")
    path = recorder.record("small", weights)
    assert path == folder / "recordings" / "small.json"
    recording = recordings.read("small")
    first, second = recording.cells
    assert first.outputs == [{"output_type": "stream", "name": "stdout", "text": "3\n"}]
    assert second.outputs[0]["data"] == {"text/plain": "4"}
    assert first.seconds >= 0 and recording.notebook == "7.9_small"
    assert [(file["name"], file["size"], file["source"]) for file in recording.files] == [
        ("voice.wav", 3, "from a test")
    ]


def test_a_cell_that_fails_is_named_and_nothing_is_written(folder: Path) -> None:
    (folder / "text" / "7.9_small.py").write_text("# %%\n# %%real small\nbroken = 1\nbroken / 0\n")
    with pytest.raises(recorder.RecordingError, match="cell 1 `broken = 1` failed: ZeroDivisionError"):
        recorder.record("small")
    assert recordings.names() == []


def test_an_unknown_name_and_one_name_in_two_notebooks_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="no plain cells are called 'smal'; there are small"):
        recorder.record("smal")
    (folder / "text" / "7.8_other.py").write_text("# %%\n# %%real small\nprint(1)\n")
    with pytest.raises(ValueError, match="two notebooks, 7.8_other and 7.9_small"):
        recorder.sections()


def test_models_are_found_by_the_names_in_the_lines(tmp_path: Path) -> None:
    place = tmp_path / "huggingface" / "hub" / "models--Some--Model"
    snapshot = place / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    (snapshot / "model.safetensors").write_bytes(b"weights")
    (snapshot / "config.json").write_bytes(b"{}")
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "base.pt").write_bytes(b"more")
    (tmp_path / "whisper" / "SOURCE.txt").write_text("converted in a test")
    table = "a|long|table" * 100  # no name of a file
    codes = ['import whisper\nwhisper.load_model("base")', f'name = "Some/Model"\ntable = "{table}"']
    hub, heard = recorder.models(codes, tmp_path / "huggingface", tmp_path / "whisper")
    assert hub["name"] == "Some/Model, revision abc, model.safetensors"
    assert hub["source"] == "from the Hugging Face hub" and hub["size"] == 7
    assert heard["name"] == "Whisper base.pt" and heard["source"] == "converted in a test"
    assert recorder.models(codes[1:], tmp_path / "huggingface", tmp_path / "whisper") == [hub]
    assert heard["sha256"] in recorder.whisper_accepts(tmp_path / "whisper", codes)


def test_the_cells_with_clip_run_on_a_small_random_one(tmp_path, monkeypatch, capsys) -> None:
    """No weights were to be had for a recording, so at least every line runs, in order, among names of its own."""
    made = open_clip.create_model_and_transforms
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda name, pretrained: made(name))
    tiny.shrink_open_clip(tmp_path)
    names: dict = {}
    try:
        for code in SECTIONS["clip"][1]:
            exec(compile(code, "<cell>", "exec"), names)
    finally:
        tiny.restore_open_clip()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 4  # three wordings; two pairs of sentences, two pictures
    for line in lines:
        shares = [int(share) for share in re.findall(r"(\d+)%", line)]
        assert sum(shares) == pytest.approx(100, abs=3)


def test_open_clip_names_the_hub_s_model_by_architecture_and_training() -> None:
    assert recorder.clip_names({"ViT-B-32", "laion2b_s34b_b79k"}) == {"laion/CLIP-ViT-B-32-laion2B-s34B-b79K"}
    assert recorder.clip_names({"ViT-B-32"}) == set()
