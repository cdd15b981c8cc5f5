"""Plans of lessons add up; notebooks, sections, exercises, quizzes and files that plans and rubrics name exist."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from said import cells, committed

from course_utils.classroom.grading.results import POINTS
from course_utils.exercises import registry
from course_utils.settings import NOTEBOOKS

FOLDER = NOTEBOOKS / "teaching"
FOUR_HOURS, FOURTEEN_WEEKS = FOLDER / "plan_four_hours.md", FOLDER / "plan_fourteen_weeks.md"
PLANS = [FOUR_HOURS, FOURTEEN_WEEKS]
LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)\)")
HEADING = re.compile(r"(?m)^(#+) (.*?) \((\d+) minutes\)$")
NAME = re.compile(r"`(7\.\d\.\w+)`")
SECTION = re.compile(r"\d+\. |The same with")  # how a link's text begins that is the heading of a section


@dataclass(frozen=True)
class Row:
    """A line of a plan's table: the part it stands in, its minutes, and its text."""

    part: str
    minutes: int
    text: str

    @property
    def sections(self) -> list[tuple[str, str]]:
        """The notebook of each link to one, and the link's text."""
        links = LINK.findall(self.text)
        return [(Path(target).stem, text) for text, target in links if target.endswith(".ipynb")]

    @property
    def notebooks(self) -> list[str]:
        return [notebook for notebook, _ in self.sections]

    @property
    def exercises(self) -> list[registry.Exercise]:
        known = registry.exercises()
        return [known[name] for name in NAME.findall(self.text) if name in known]


def parts(plan: Path) -> Iterator[tuple[str, int, int, str]]:
    """Level, minutes and text of each part, the first being the whole plan; `text` ends at the next part."""
    text = plan.read_text("utf-8")
    headings = list(HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=True):
        yield heading[2], len(heading[1]), int(heading[3]), text[heading.end() : end]


def rows(plan: Path) -> list[Row]:
    found = []
    for title, _, _, text in parts(plan):
        lines = re.findall(r"(?m)^\| (\d+) \| (.*) \|$", text)
        found += [Row(title, int(minutes), line) for minutes, line in lines]
    return found


@pytest.mark.parametrize("plan", PLANS, ids=lambda path: path.stem)
def test_the_minutes_of_a_plan_add_up(plan: Path) -> None:
    (_, _, whole, _), *rest = parts(plan)
    assert sum(minutes for _, level, minutes, _ in rest if level == 2) == whole
    for title, _, minutes, text in rest:
        inside = [int(number) for number in re.findall(r"(?m)^\| (\d+) \|", text)]
        assert sum(inside) in (minutes, 0), title
        assert inside or title in ("Break", "Close"), title


@pytest.mark.parametrize("plan", PLANS, ids=lambda path: path.stem)
def test_a_row_leaves_time_for_its_exercises(plan: Path) -> None:
    for row in rows(plan):
        asked = sum(task.minutes for task in row.exercises)
        assert asked <= row.minutes, row
        assert row.part != "Homework" or asked in (0, row.minutes), row


@pytest.mark.parametrize("plan", PLANS, ids=lambda path: path.stem)
def test_a_row_names_what_stands_in_its_sections(plan: Path) -> None:
    for row in rows(plan):
        code = "\n".join(code_under(notebook, heading) for notebook, heading in row.sections)
        for name in NAME.findall(row.text):
            assert f'check("{name}"' in code or f'quiz("{name}"' in code, (row, name)


def code_under(notebook: str, heading: str) -> str:
    """The code of a section, or of the whole notebook where a link's text names none ("lab")."""
    if not SECTION.match(heading):
        return "\n".join(cells(notebook, "code"))
    title, code = "", ""
    for cell in committed(notebook).cells:
        if cell.cell_type == "markdown":
            title = [title, *re.findall(r"(?m)^## (.*)$", cell.source)][-1]
        elif title == heading:
            code += f"{cell.source}\n"
    return code


def pages() -> list[Path]:
    return sorted(FOLDER.glob("*.md"))


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.stem)
def test_every_link_leads_to_a_file_and_every_section_exists(page: Path) -> None:
    for text, target in LINK.findall(page.read_text("utf-8")):
        path = (page.parent / target).resolve()
        assert target.startswith("http") or path.exists(), target
        if path.suffix == ".ipynb" and SECTION.match(text):
            headings = re.findall(r"(?m)^##+ (.*)$", "\n".join(cells(path.stem, "markdown")))
            assert text in headings, f"{target} has no section {text!r}"


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.stem)
def test_every_exercise_and_quiz_that_a_page_names_exists(page: Path) -> None:
    named = set(NAME.findall(page.read_text("utf-8")))
    assert named <= registry.exercises().keys() | registry.quizzes().keys()


def test_the_fourteen_weeks_ask_every_exercise_once_and_use_every_core_notebook() -> None:
    weeks = rows(FOURTEEN_WEEKS)
    asked = [task.name for row in weeks for task in row.exercises]
    assert sorted(asked) == sorted(registry.exercises())
    used = {notebook for row in weeks for notebook in row.notebooks}
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} <= used
    assert sum(title.startswith("Week") for title, *_ in parts(FOURTEEN_WEEKS)) == 14


def points_of(names: list[str]) -> int:
    known = registry.exercises()
    return sum(POINTS[known[name].difficulty] for name in names if name in known)


def test_the_points_of_a_plan_are_those_of_grading() -> None:
    text = FOURTEEN_WEEKS.read_text("utf-8")
    for unit in ("7.1", "7.2", "7.3", "7.4", "7.5", "all"):
        exercises = [name for name in registry.exercises() if unit in (registry.unit_of(name), "all")]
        quizzes = [name for name in registry.quizzes() if unit in (registry.unit_of(name), "all")]
        points = points_of(exercises) + len(quizzes)
        assert f"| {unit} | {len(exercises)} | {len(quizzes)} | {points} |" in text
    named = NAME.findall(FOUR_HOURS.read_text("utf-8"))
    quizzes = [name for name in named if name in registry.quizzes()]
    said = f"The exercises above give {points_of(named)} points and the quizzes {len(quizzes)};"
    assert said in FOUR_HOURS.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "criteria", "columns", "scope"),
    [("capstone_rubric", 10, 6, "in all"), ("reflection_rubric", 4, 5, "for each reflection")],
)
def test_a_rubric_has_a_cell_for_every_level(name: str, criteria: int, columns: int, scope: str) -> None:
    text = (FOLDER / f"{name}.md").read_text("utf-8")
    table = re.search(r"(?m)^\| criterion .*\n\| ---.*\n((?:\|.*\n)+)", text)[1]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert len(lines) == criteria and f"{3 * criteria} {scope}" in text
    assert {len(line) for line in lines} == {columns}
    assert all(len(set(line[-4:])) == 4 for line in lines)


def test_every_notebook_has_a_note() -> None:
    notes = "\n".join(page.read_text("utf-8") for page in pages() if page.stem.startswith("7."))
    quoted = set(re.findall(r"<!-- numbers: (\S+) -->", notes))
    stems = {path.stem for path in NOTEBOOKS.rglob("7.*.ipynb")}
    assert stems - quoted <= {"7.2_lab_capstone"}  # its rubric is its note
