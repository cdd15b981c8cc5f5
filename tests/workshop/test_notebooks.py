"""Notebooks are built the same way every time, and what doesn't belong into them is refused."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from course_utils import settings
from course_utils.workshop import notebooks

SOURCE = """# %% [markdown] tags=["badge"]
# # A title
# and a formula $x^2$

# %% tags=["topic:react", "other"]
total = sum(range(10))
print("total", total)

# %%
from IPython.display import display
display({"text/html": "<b>" + "bold</b>", "text/plain": "bold"}, raw=True)

# %%
total + 1
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built notebook in a folder with a space in its name; returns its text source."""
    folder = tmp_path_factory.mktemp("books") / "with a space" / "text"
    folder.mkdir(parents=True)
    source = folder / "7.2_agents.py"
    source.write_text(SOURCE)
    notebooks.build(source)
    return source


def altered(source: Path, tmp_path: Path, change) -> Path:
    """A copy of a built notebook whose .ipynb (a dict) was changed by `change`; returns the text source."""
    copy = text_below(tmp_path, source.name)
    copy.write_text(source.read_text())
    notebook = json.loads(notebooks.target(source).read_text())
    change(notebook)
    notebooks.target(copy).write_text(json.dumps(notebook))
    return copy


def text_below(folder: Path, name: str) -> Path:
    """Where the text source `name` of a folder of notebooks belongs."""
    (folder / "text").mkdir(exist_ok=True)
    return folder / "text" / name


def test_a_build_is_executed_clean_and_agrees_with_its_text(built: Path) -> None:
    notebook = nbformat.read(notebooks.target(built), as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [c.cell_type for c in notebook.cells] == ["markdown", "code", "code", "code"]
    assert notebook.cells[0].metadata.tags == ["badge"]
    assert notebook.cells[1].outputs[0].text == "total 45\n"
    assert notebook.cells[3].outputs[0].data["text/plain"] == "46"
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert notebooks.agree(built) == []


def test_a_second_build_gives_the_same_bytes(built: Path) -> None:
    target = notebooks.target(built)
    before = target.read_bytes()
    assert notebooks.build(built) == target
    assert target.read_bytes() == before


def test_equal_cells_have_different_ids(tmp_path: Path) -> None:
    source = text_below(tmp_path, "x.py")
    source.write_text("# %%\nprint(1)\n\n# %%\nprint(1)\n")
    ids = [cell.id for cell in notebooks.convert(source).cells]
    assert len(set(ids)) == 2


def test_agree_says_what_differs_and_where(built: Path, tmp_path: Path) -> None:
    def cell(number, **new):
        return lambda notebook: notebook["cells"][number].update(new)

    def said(change) -> str:
        return "\n".join(notebooks.agree(altered(built, tmp_path, change)))

    assert "cell 2 differs in its source" in said(cell(1, source="total = 3"))
    assert "cell 2 differs in its tags" in said(cell(1, metadata={"tags": ["other"]}))
    assert "3 cells where its source has 4" in said(lambda n: n["cells"].pop())
    assert "cell ids" in said(cell(3, id="elsewhere"))
    assert "executed from top to bottom" in said(cell(3, execution_count=9))
    assert "cell 3 holds metadata: execution" in said(cell(2, metadata={"execution": {}}))
    assert "metadata of one machine" in said(lambda n: n["metadata"].update(widgets={}))
    assert "differs in its type" in said(
        lambda n: n["cells"].__setitem__(3, {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "total + 1"})
    )
    stderr = {"output_type": "stream", "name": "stderr", "text": "Warning!"}
    assert "wrote to stderr" in said(cell(1, outputs=[stderr]))


def test_tags_are_carried_over_and_outputs_stay(built: Path, tmp_path: Path) -> None:
    copy = altered(built, tmp_path, lambda book: None)
    copy.write_text(SOURCE.replace('"other"', '"slide"'))
    assert notebooks.agree(copy) == ["7.2_agents.ipynb: cell 2 differs in its tags: `total = sum(range(10))`"]
    notebooks.retag(copy)
    assert notebooks.agree(copy) == []
    cell = notebooks.load(notebooks.target(copy)).cells[1]
    assert cell.metadata.tags == ["topic:react", "slide"] and cell.outputs[0].text == "total 45\n"


def test_where_more_than_tags_differs_a_build_is_asked_for(built: Path, tmp_path: Path) -> None:
    copy = altered(built, tmp_path, lambda book: None)
    copy.write_text(SOURCE.replace("range(10)", "range(11)"))
    before = notebooks.target(copy).read_bytes()
    with pytest.raises(notebooks.BuildError, match="differs in more than tags; `course notebooks 7.2_agents` builds"):
        notebooks.retag(copy)
    assert notebooks.target(copy).read_bytes() == before


def test_a_missing_ipynb_is_named_with_its_cure(tmp_path: Path) -> None:
    source = text_below(tmp_path, "7.1_new.py")
    source.write_text("# %%\n1\n")
    (line,) = notebooks.agree(source)
    assert "7.1_new.ipynb is missing" in line and "course notebooks" in line


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; print(os.getcwd())", "path of this machine"),
        ("import sys; sys.executable", "path of this machine"),
        ("print('/home/' + 'someone/data')", "path of this machine"),
        ("import warnings; warnings.warn('careful')", "stderr"),
        ("object()", "memory address"),
        ("print('fine'); 1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_may_not_be_committed_stops_the_build(tmp_path: Path, code: str, said: str) -> None:
    source = text_below(tmp_path, "7.9_bad.py")
    source.write_text(f"# %%\n1\n\n# %%\n{code}\n")
    with pytest.raises(notebooks.BuildError, match=said) as caught:
        notebooks.build(source)
    assert "[2]" in str(caught.value)
    assert not notebooks.target(source).exists()


def test_pictures_and_relative_paths_are_no_fault() -> None:
    picture = f"data:image/png;base64,AAAA{settings.ROOT}/AAAA".replace("-", "+")
    output = nbformat.v4.new_output("display_data", {"text/html": f'<img src="{picture}">'})
    near = nbformat.v4.new_output("stream", text=f"build/run data{settings.ROOT}s https://x.org/home/a/b")
    cell = nbformat.v4.new_code_cell("1", outputs=[output, near])
    assert notebooks.output_faults(nbformat.v4.new_notebook(cells=[cell])) == []


def test_widgets_are_left_out_and_their_state_too() -> None:
    widget = nbformat.v4.new_output("display_data", {notebooks.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "HBox()"})
    text = nbformat.v4.new_output("stream", text="kept")
    cell = nbformat.v4.new_code_cell("1", outputs=[widget, text], metadata={"scrolled": True, "tags": ["a"]})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    notebooks.clean(notebook)
    assert "widgets" not in notebook.metadata
    assert notebook.cells[0].metadata == {"tags": ["a"]}
    assert [output.text for output in notebook.cells[0].outputs] == ["kept"]


# Topics


def test_topics_are_read_from_text_and_ipynb(built: Path) -> None:
    assert notebooks.topics(built) == notebooks.topics(notebooks.target(built)) == ["react"]
    assert notebooks.topic_faults(notebooks.target(built)) == []


def test_a_tag_of_another_unit_and_an_idle_topic_are_faults(built: Path, tmp_path: Path) -> None:
    def change(notebook):
        notebook["cells"][0]["metadata"]["tags"] = ["topic:rewoo", "topic:framework-table"]
        notebook["cells"][3]["metadata"]["tags"] = ["topic:qlora"]

    path = notebooks.target(altered(built, tmp_path, change))
    foreign, idle = notebooks.topic_faults(path)
    assert "topic:qlora is no topic of unit 7.2" in foreign
    assert "topic:rewoo has to run" in idle


def test_the_curriculum_is_complete_and_its_ids_are_unique() -> None:
    topics = notebooks.curriculum()
    assert {t.unit for t in topics} >= {"7.1", "7.2", "7.3", "7.4", "7.5"}
    assert len({(t.unit, t.id) for t in topics}) == len(topics) > 100
    assert {t.need for t in topics} == {"run", "tool", "explain"}


def test_the_committed_notebooks_carry_only_tags_of_their_unit() -> None:
    faults = [f for path in notebooks.built() for f in notebooks.topic_faults(path)]
    assert faults == []


def test_the_committed_notebooks_agree_with_their_text() -> None:
    assert notebooks.check() == []


@pytest.mark.parametrize("path", notebooks.sources(), ids=lambda path: path.stem)
def test_a_notebook_opens_with_its_title_and_badge(path: Path) -> None:
    """A misspelt cell marker makes the title a cell of comments, and nothing else notices."""
    first = notebooks.load(path).cells[0]
    assert first.cell_type == "markdown" and first.metadata.get("tags") == ["badge"]
    assert first.source.startswith("# ") and f"/{path.stem}.ipynb" in first.source


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda path: path.stem)
def test_no_cell_is_longer_than_25_lines(source: Path) -> None:
    cells = enumerate(notebooks.convert(source).cells, start=1)
    sizes = {number: len(cell.source.splitlines()) for number, cell in cells if cell.cell_type == "code"}
    assert {number: lines for number, lines in sizes.items() if lines > 25} == {}


WIDTH = 100  # columns; JupyterLab shows about 104 in a window of 1280 pixels with its file list


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda path: path.stem)
def test_no_line_of_a_cell_is_cut_off_in_a_small_window(source: Path) -> None:
    cells = [cell for cell in notebooks.convert(source).cells if cell.cell_type == "code"]
    own = [cell for cell in cells if "bootstrap" not in cell.metadata.get("tags", [])]
    lines = [line for cell in own for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > WIDTH] == []


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda path: path.stem)
def test_a_cell_with_a_check_prints_nothing_else(source: Path) -> None:
    """Below "not yet" no result of the course's own function may look like the student's."""
    cells = [cell.source for cell in notebooks.convert(source).cells if cell.cell_type == "code"]
    checks = [text for text in cells if re.search(r"\bcheck\(\"", text)]
    assert [text for text in checks if not re.fullmatch(r"(\w+ = )?check\([^()]*\)", text.strip())] == []


@pytest.mark.parametrize("notebook", notebooks.built(), ids=lambda path: path.stem)
def test_no_line_of_shown_source_is_cut_off_in_a_small_window(notebook: Path) -> None:
    outputs = [output for cell in nbformat.read(notebook, as_version=4).cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {}).get("text/markdown", "") for output in outputs]
    lines = [line for text in shown if text.startswith("```python") for line in text.splitlines()]
    assert [line for line in lines if len(line) > WIDTH] == []


MAKERS = ("random.Random", "np.random.default_rng", "torch.Generator")


def _made_and_read(cell: str) -> tuple[set[str], set[str]]:
    """The names of generators that a cell makes, and all names that it reads; functions have names of their own."""
    made, read = set(), set()
    for part in ast.parse(_without_magic(cell)).body:
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            continue
        names = [node for node in ast.walk(part) if isinstance(node, ast.Name)]
        read |= {name.id for name in names if isinstance(name.ctx, ast.Load)}
        for node in ast.walk(part):  # in a loop, too: there it is made anew in each round
            if isinstance(node, ast.Assign):
                made |= _generators(node)
    return made, read


def _without_magic(cell: str) -> str:
    """The Python of a cell that begins with a magic such as %%real."""
    return cell.partition("\n")[2] if cell.startswith("%%") else cell


def _generators(part: ast.Assign) -> set[str]:
    """The names to which `part` gives a new generator; "a, b = x, y" counts each name alone."""
    name, value = part.targets[0], part.value
    alone = not (isinstance(name, ast.Tuple) and isinstance(value, ast.Tuple))
    pairs = [(name, value)] if alone else zip(name.elts, value.elts, strict=True)
    calls = [(ast.unparse(n), v) for n, v in pairs if isinstance(v, ast.Call)]
    return {name for name, call in calls if ast.unparse(call.func) in MAKERS}


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda path: path.stem)
def test_a_cell_that_runs_again_gives_the_same_numbers(source: Path) -> None:
    """A generator that another cell made goes on where it stood: it is made anew where it is used."""
    generators: set[str] = set()
    shared = []
    for cell in notebooks.convert(source).cells:
        if cell.cell_type == "code":
            made, read = _made_and_read(cell.source)
            shared += [f"{name} in `{cell.source.splitlines()[0]}`" for name in sorted(generators & read - made)]
            generators |= made
    assert shared == []


def _own_scale(call: ast.Call) -> bool:
    """Whether a heat map takes its scale from its own numbers: no `low` and `high`, by name or as 6th and 7th."""
    names = {keyword.arg for keyword in call.keywords}
    return not {"low", "high"} <= names and len(call.args) < 7


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda path: path.stem)
def test_heat_maps_side_by_side_share_one_scale(source: Path) -> None:
    """In a loop over panels one colour bar stands for all of them: it is wrong where each has a scale of its own."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    inside = [node for loop in loops for node in ast.walk(loop)]
    calls = [node for node in inside if isinstance(node, ast.Call) and ast.unparse(node.func) == "figures.heatmap"]
    assert [ast.unparse(call) for call in calls if _own_scale(call)] == []


def test_no_outputs_are_built_at_the_quick_pace(built: Path, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PACE", "quick")
    with pytest.raises(notebooks.BuildError, match="unset it"):
        notebooks.build(built)


def lost_tables(source: str) -> list[str]:
    """The tables that a cell makes and nobody shows: not its last expression, and not handed on."""
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body else None
    lost = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Expr) or node is last or not isinstance(node.value, ast.Call):
            continue
        if ast.unparse(node.value.func) == "figures.table":
            lost.append(ast.unparse(node))
    return lost


def test_a_table_that_is_lost_is_found() -> None:
    assert lost_tables("figures.table(rows)\nprint(1)") == ["figures.table(rows)"]
    assert lost_tables("if rows:\n    figures.table(rows)") == ["figures.table(rows)"]
    assert lost_tables("print(1)\nfigures.table(rows)") == lost_tables("display(figures.table(rows))\nx = 1") == []


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda path: path.stem)
def test_no_table_is_made_and_not_shown(source: Path) -> None:
    """Jupyter shows the last expression of a cell only."""
    for cell in notebooks.convert(source).cells:
        if cell.cell_type == "code":
            assert lost_tables(_without_magic(cell.source)) == []
