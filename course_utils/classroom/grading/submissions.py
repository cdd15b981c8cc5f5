"""What students handed in: the code cells of each student, of all files in a folder or a zip file.

Whatever is wrong with a file is a sentence in its student's notes, and ends nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from course_utils.classroom.grading import formats, students, unpacking
from course_utils.classroom.grading.formats import Work
from course_utils.classroom.grading.students import Owner
from course_utils.classroom.grading.unpacking import File, Refused

MOST_BYTES = 400_000_000  # that are read of a student
MOST_FILES = 200  # of a student
MOST_CODE = 5_000_000  # characters of a student's code; all notebooks of the course have 800,000
MOST_NOTES = 20
SAME_TIME = 2  # seconds; a zip file knows times no better


@dataclass(frozen=True)
class Submission:
    """What a student handed in, the newest work last. `notes` say what could not be read.

    number: what the LMS calls the student, if a name of a file or a folder says it.
    """

    student: str
    number: str = ""
    works: tuple[Work, ...] = ()
    notes: tuple[str, ...] = ()


def read(source: Path) -> list[Submission]:
    """The submissions in a folder or a zip file, by the students' names. ValueError if there is none."""
    if not source.exists():
        raise ValueError(f"there is no {source}; name the folder or the zip file with the students' notebooks")
    if not source.is_dir() and source.suffix.lower() != ".zip":
        raise ValueError(f"{source} is no folder and no zip file; put the students' notebooks into a folder")
    piles = _piles(source)
    if not piles:
        raise ValueError(f"{source} holds no notebook (.ipynb) and no bundle (.course.json) of a student")
    names = Counter(pile.owner.name for pile in piles)
    found = [pile.submission(names[pile.owner.name] > 1) for pile in piles]
    return sorted(found, key=lambda submission: submission.student)


def _piles(source: Path) -> list["Pile"]:
    """A pile of files for each student."""
    above = _above_students([file.place for file in unpacking.files(source)])
    piles: dict[Owner, Pile] = {}
    for file in unpacking.files(source):
        owner = students.owner(file.place[above:])
        wanted = _is_wanted(file.name)
        is_somebodys = bool(owner.number) or (len(file.place) > above + 1 and not owner.is_guess)
        if not wanted and not is_somebodys:
            continue
        pile = piles.setdefault(owner, Pile(owner))
        if wanted:
            pile.take(file)
    return _joined(list(piles.values()), source)


def _is_wanted(name: str) -> bool:
    return name.lower().endswith((*formats.KINDS, ".zip"))  # a zip file is here only if it can't be opened


def _above_students(places: Sequence[tuple[str, ...]]) -> int:
    """1 if all stands in one folder or zip file which holds folders of several students, else 0."""
    tops = {place[0] for place in places}
    notebooks = [place for place in places if _is_wanted(place[-1])]
    if any(len(place) == 2 for place in notebooks):  # a student's folder may hold one of pictures, too
        places = notebooks
    inner = {place[1] for place in places if len(place) > 2}
    named = [name for name in inner if students.without_course(name)]
    return int(len(tops) == 1 and len(named) > 1)


def _joined(piles: list["Pile"], source: Path) -> list["Pile"]:
    """One pile if nothing says whose the notebooks are and they are different ones: the folder is a student's."""
    read = [pile for pile in piles if pile.works or pile.notes]  # a folder of pictures is no student beside them
    notebooks = {students.without_copy(pile.owner.name) for pile in read}
    if not all(pile.owner.is_guess for pile in read) or len(notebooks) < len(read) or not read:
        return piles
    one = Pile(Owner(unpacking.plain(students.stem(source.resolve().name))))
    for pile in read:
        one.works += pile.works
        one.notes += pile.notes
    return [one]


class Pile:
    """What has been found of a student so far."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.works: list[tuple[tuple, Work]] = []  # each with the key that orders them
        self.notes: list[str] = []
        self.room, self.room_for_code = MOST_BYTES, MOST_CODE

    def note(self, words: str) -> None:
        """Keep a sentence for the instructor; after many of them nobody reads on."""
        if len(self.notes) < MOST_NOTES:
            self.notes.append(words)
        elif len(self.notes) == MOST_NOTES:
            self.notes.append("More of this kind is not shown.")

    def take(self, file: File) -> None:
        """Add the cells of a file, or a note on why it has none."""
        if len(self.works) >= MOST_FILES:
            self.note(f"{file.name} is left out: {MOST_FILES} files are read of a student.")
            return
        age = round(file.changed / SAME_TIME), students.copy_number(file.name), file.place
        try:
            works = formats.works(file.name, self._bytes(file), self.note)
            self._make_room(works)
        except Refused as error:
            self.note(f"{file.name} {error}.")
            return
        self.works += [((age, part), work) for part, work in enumerate(works)]

    def _bytes(self, file: File) -> bytes:
        if self.room <= 0:
            raise Refused(f"is left out: {MOST_BYTES // 1_000_000} MB are read of a student")
        raw = file.read()
        self.room -= len(raw)
        return raw

    def _make_room(self, works: Sequence[Work]) -> None:
        """Raises Refused for more code than anybody writes: the code of all students is held at once."""
        size = sum(len(cell) for work in works for cell in work.cells)
        if size > self.room_for_code:
            raise Refused(f"is left out: {MOST_CODE:,} characters of code are read of a student")
        self.room_for_code -= size

    def submission(self, is_one_of_several: bool) -> Submission:
        """All works, the newest last. The number tells students of one name apart."""
        name = str(self.owner) if is_one_of_several else self.owner.name
        notes = [*self.notes]
        if is_one_of_several:
            notes.append(f"Another student is called {self.owner.name}, too.")
        if self.owner.is_guess:
            notes.append("No folder and no file says whose this is; the student is called as the file.")
        if not self.works:
            notes.append("Nothing that could be read was handed in.")
        works = [work for _, work in sorted(self.works, key=lambda pair: pair[0])]
        return Submission(name, self.owner.number, tuple(works), tuple(notes))
