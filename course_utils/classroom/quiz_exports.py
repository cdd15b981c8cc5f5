"""The course's quizzes for a learning platform: QTI 2.1 and Moodle XML.

    quizzes_7.1.qti.zip      QTI 2.1 in a content package: Canvas, Blackboard, OpenOlat and others
    quizzes_7.1.moodle.xml   Moodle: Question bank > Import > Moodle XML format; Moodle reads no QTI by itself

QTI 2.1 and not 1.2: Canvas turns 1.2 into 2.1 when it imports, and Blackboard asks for 2.1. Of Canvas's two kinds of
quiz, Classic Quizzes take over what is said to each answer; New Quizzes leave it out.
"""

from collections.abc import Sequence
from pathlib import Path

from course_utils.classroom.outputs import save, template, zipped
from course_utils.exercises import registry
from course_utils.exercises.registry import Quiz

COURSE = "Advanced generative AI"  # the category in Moodle that holds one for each unit


def write(folder: Path, unit: str = "") -> list[Path]:
    """Write both files for `unit`, or for every unit with quizzes; their paths.

    ValueError for another unit, or a file that can't be written.
    """
    units = by_unit()
    if unit not in ("", *units):
        raise ValueError(f"There are no quizzes for unit {unit!r}. There are some for {', '.join(units)}.")
    paths = []
    for name in [unit] if unit else units:
        contents = {"qti.zip": as_qti(name, units[name]), "moodle.xml": as_moodle(name, units[name])}
        paths += [save(folder / f"quizzes_{name}.{ending}", content) for ending, content in contents.items()]
    return paths


def by_unit() -> dict[str, list[Quiz]]:
    """The quizzes of each unit, in the order of the course."""
    units: dict[str, list[Quiz]] = {}
    for quiz in registry.quizzes().values():
        unit = registry.unit_of(quiz.name)
        units.setdefault(unit, []).append(quiz)
    return units


def as_qti(unit: str, quizzes: Sequence[Quiz]) -> bytes:
    """A content package, as a zip file: a manifest, a test, and a file for each question."""
    about = {"unit": unit, "title": title_of(unit), "quizzes": quizzes}
    files = {
        "imsmanifest.xml": template("qti_manifest.xml").render(about),
        "test.xml": template("qti_test.xml").render(about),
    }
    item = template("qti_item.xml")
    for quiz in quizzes:
        files[f"{quiz.name}.xml"] = item.render(quiz=quiz)
    return zipped(files)


def as_moodle(unit: str, quizzes: Sequence[Quiz]) -> bytes:
    """Moodle's own XML: a category, and the questions in it."""
    page = template("moodle.xml").render(course=COURSE, title=title_of(unit), quizzes=quizzes)
    return page.encode()


def title_of(unit: str) -> str:
    """What a unit's quizzes are called on the platform."""
    return f"Unit {unit}: quizzes"
