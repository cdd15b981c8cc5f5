"""Quizzes for learning platforms: valid by the schemas of IMS, read as Canvas and Moodle read them, every word kept."""

import copy
import gzip
import html
import io
import re
import zipfile
from pathlib import Path

import pytest
from lxml import etree
from typer.testing import CliRunner

from course_utils import cli
from course_utils.classroom import quiz_exports
from course_utils.exercises.registry import Answer, Quiz

SCHEMAS = Path(__file__).parent / "schemas"
QTI = "{http://www.imsglobal.org/xsd/imsqti_v2p1}"
UNITS = ["7.1", "7.2", "7.3", "7.4", "7.5"]
HARD = Quiz(
    "9.9.hard",
    "Is `a < b` & \"c\" > 'd' for $x^2$, \\(e^{i\\pi}\\) and ]]> in `<script>`?",
    (Answer("Äh, `x[0]` <b>no</b> & so", "100 % `>= 1`: no.", False), Answer("`yes`", "It's 中文 & `&amp;`.", True)),
)

# What the schemas import from elsewhere and no quiz uses: file -> namespace, and the parts that are referred to.
ELSEWHERE = {
    "xml.xsd": ("http://www.w3.org/XML/1998/namespace", '<xs:attribute name="lang"/><xs:attribute name="base"/>'),
    "XInclude.xsd": ("http://www.w3.org/2001/XInclude", '<xs:element name="include"/>'),
    "mathml2.xsd": ("http://www.w3.org/1998/Math/MathML", '<xs:element name="math"/>'),
    "apipv1p0_qtiextv2p1_v1p0.xsd": (
        "http://www.imsglobal.org/xsd/apip/apipv1p0/imsapip_qtiv1p0",
        '<xs:element name="apipAccessibility"/>',
    ),
    "imsmd_loose_v1p3p2.xsd": ("http://ltsc.ieee.org/xsd/LOM", '<xs:element name="lom"/>'),
    "imsqti_metadata_v2p1p1.xsd": (
        "http://www.imsglobal.org/xsd/imsqti_metadata_v2p1",
        '<xs:element name="qtiMetadata"/>',
    ),
}


class Elsewhere(etree.Resolver):
    """Small schemas in the place of those that are imported."""

    def resolve(self, url, public, context):
        namespace, parts = ELSEWHERE[url.rpartition("/")[2]]
        schema = '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="{}">{}</xs:schema>'
        return self.resolve_string(schema.format(namespace, parts), context)


def schema(content: bytes) -> etree.XMLSchema:
    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(Elsewhere())
    return etree.XMLSchema(etree.fromstring(content, parser))


@pytest.fixture(scope="module")
def of_items() -> etree.XMLSchema:
    return schema(gzip.decompress((SCHEMAS / "imsqti_v2p1.xsd.gz").read_bytes()))


@pytest.fixture(scope="module")
def of_manifests() -> etree.XMLSchema:
    return schema((SCHEMAS / "qtiv2p1_imscpv1p2_v1p0.xsd").read_bytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Everything, as the command writes it."""
    place = tmp_path_factory.mktemp("für Moodle") / "new"
    result = run("quizzes", str(place))
    assert result.exit_code == 0 and result.stdout.count("written: ") == 2 * len(UNITS)
    return place


def run(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def opened(package: bytes) -> dict[str, etree._Element]:
    """The files of a package."""
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return {name: etree.fromstring(archive.read(name)) for name in archive.namelist()}


def hard_item() -> etree._Element:
    return opened(quiz_exports.as_qti("9.9", [HARD]))["9.9.hard.xml"]


# QTI


@pytest.mark.parametrize("unit", UNITS)
def test_packages_are_valid(unit: str, folder: Path, of_items, of_manifests) -> None:
    files = opened((folder / f"quizzes_{unit}.qti.zip").read_bytes())
    of_manifests.assertValid(files.pop("imsmanifest.xml"))
    assert len(files) == 1 + len(quiz_exports.by_unit()[unit])
    for root in files.values():
        of_items.assertValid(root)


def test_texts_with_signs_of_xml_are_valid(of_items) -> None:
    of_items.assertValid(hard_item())


@pytest.mark.parametrize("part", ["responseDeclaration", "itemBody", "choiceInteraction", "match"])
def test_the_schema_sees_a_fault(part: str, of_items) -> None:
    broken = copy.deepcopy(hard_item())
    found = broken.find(f".//{QTI}{part}")
    found.tag = f"{QTI}unknown"
    assert not of_items.validate(broken)


def test_the_manifests_schema_sees_a_fault(folder: Path, of_manifests) -> None:
    manifest = opened((folder / "quizzes_7.1.qti.zip").read_bytes())["imsmanifest.xml"]
    manifest.find(".//{*}resource").set("type", "imsqti_xmlv1p2")  # the older version
    assert not of_manifests.validate(manifest)


@pytest.mark.parametrize("unit", UNITS)
def test_the_manifest_and_the_test_name_every_file(unit: str, folder: Path) -> None:
    files = opened((folder / f"quizzes_{unit}.qti.zip").read_bytes())
    manifest = files["imsmanifest.xml"]
    hrefs = [file.get("href") for file in manifest.iter("{*}file")]
    needed = [part.get("identifierref") for part in manifest.iter("{*}dependency")]
    _, *items = [resource.get("identifier") for resource in manifest.iter("{*}resource")]
    references = {ref.get("href"): ref.get("identifier") for ref in files["test.xml"].iter("{*}assessmentItemRef")}
    assert sorted(["imsmanifest.xml", *hrefs]) == sorted(files)
    assert [*references] == hrefs[1:]
    assert [*references.values()] == needed == items
    assert all(files[href].get("identifier") == name for href, name in references.items())


def outcome(item: etree._Element, letter: str) -> tuple[float, list[str]]:
    """Score and shown feedback if `letter` is chosen, by the rules in the item."""
    right = item.findtext(f".//{QTI}correctResponse/{QTI}value")
    score, shown = 0.0, []
    for rule in item.iter(f"{QTI}responseIf"):
        match, consequence = rule
        wanted = right if match[1].tag == f"{QTI}correct" else match[1].text
        if wanted == letter and consequence.get("identifier") == "SCORE":
            score = float(consequence[0].text)
        elif wanted == letter:
            shown.append(consequence.findtext(f".//{QTI}baseValue"))
    by_identifier = {one.get("identifier"): one for one in item.iter(f"{QTI}modalFeedback")}
    return score, [written(by_identifier[name][0]) for name in shown]


def written(node: etree._Element) -> str:
    """The text of a node as in the course: code between backticks."""
    parts = [node.text or ""]
    for child in node:
        parts += ["`", child.text, "`", child.tail or ""]
    return "".join(parts)


@pytest.mark.parametrize("unit", UNITS)
def test_an_engine_scores_and_explains_as_the_course_does(unit: str, folder: Path) -> None:
    files = opened((folder / f"quizzes_{unit}.qti.zip").read_bytes())
    for quiz in quiz_exports.by_unit()[unit]:
        item = files[f"{quiz.name}.xml"]
        for letter, answer in quiz.letters.items():
            assert outcome(item, letter) == (float(answer.right), [answer.explanation])


def test_every_word_and_sign_survives() -> None:
    item = hard_item()
    assert written(item.find(f".//{QTI}prompt")) == HARD.question
    assert [written(choice) for choice in item.iter(f"{QTI}simpleChoice")] == [answer.text for answer in HARD.answers]


def test_canvas_takes_feedback_as_that_of_an_answer(folder: Path) -> None:
    """Its reader takes some identifiers for feedback on the whole question: qti_exporter, get_feedback_id."""
    for_all = re.compile(r"general_|_all|wrong|incorrect|correct|(_IC$)|(_C$)", re.IGNORECASE)
    for unit in UNITS:
        for root in opened((folder / f"quizzes_{unit}.qti.zip").read_bytes()).values():
            names = [one.get("identifier") for one in root.iter(f"{QTI}modalFeedback")]
            assert [name for name in names if for_all.search(name)] == []


def test_canvas_knows_the_package_as_qti_2(folder: Path) -> None:
    manifest = opened((folder / "quizzes_7.1.qti.zip").read_bytes())["imsmanifest.xml"]
    assert re.search(r"QTIv2\.", manifest.findtext("{*}metadata/{*}schema"))


# Moodle


def moodle(unit: str, folder: Path) -> list[etree._Element]:
    root = etree.fromstring((folder / f"quizzes_{unit}.moodle.xml").read_bytes())
    assert root.tag == "quiz"
    return list(root)


def as_written(text: str) -> str:
    """What the course had written where Moodle has HTML."""
    return html.unescape(re.sub("</?code>", "`", text))


HEADERS = ["name", "questiontext", "defaultgrade", "idnumber", "single", "shuffleanswers", "answernumbering"]


@pytest.mark.parametrize("unit", UNITS)
def test_moodles_questions_have_the_parts_that_its_importer_reads(unit: str, folder: Path) -> None:
    """There is no official schema. The names are those of question/format/xml/format.php, `import_multichoice`."""
    category, *questions = moodle(unit, folder)
    assert category.get("type") == "category"
    assert category.findtext("category/text") == f"$course$/top/{quiz_exports.COURSE}/Unit {unit}: quizzes"
    quizzes = quiz_exports.by_unit()[unit]
    for question, quiz in zip(questions, quizzes, strict=True):
        assert question.get("type") == "multichoice"
        assert [part.tag for part in question] == [*HEADERS, *["answer"] * len(quiz.answers)]
        values = [question.findtext(name) for name in HEADERS[2:]]
        assert values == ["1", quiz.name, "true", "true", "abc"]
        assert question.findtext("name/text") == quiz.name
        assert question.find("questiontext").get("format") == "html"


@pytest.mark.parametrize("unit", UNITS)
def test_moodle_has_every_answer_with_its_explanation(unit: str, folder: Path) -> None:
    _, *questions = moodle(unit, folder)
    for question, quiz in zip(questions, quiz_exports.by_unit()[unit], strict=True):
        assert as_written(question.findtext("questiontext/text")) == quiz.question
        for part, answer in zip(question.findall("answer"), quiz.answers, strict=True):
            assert part.attrib == {"fraction": "100" if answer.right else "0", "format": "html"}
            assert as_written(part.findtext("text")) == answer.text
            assert part.find("feedback").get("format") == "html"
            assert as_written(part.findtext("feedback/text")) == answer.explanation


def test_moodle_gets_signs_as_text_and_not_as_tags() -> None:
    root = etree.fromstring(quiz_exports.as_moodle("9.9", [HARD]))
    text = root.findtext("question/questiontext/text")
    assert "<code>&lt;script&gt;</code>" in text and "<script>" not in text
    assert as_written(text) == HARD.question


# The command


def test_the_same_quizzes_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    run("quizzes", str(tmp_path))
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_one_unit(tmp_path: Path) -> None:
    assert run("quizzes", str(tmp_path), "--unit", "7.3").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"quizzes_7.3.qti.zip", "quizzes_7.3.moodle.xml"}


def test_a_unit_without_quizzes_is_named(tmp_path: Path) -> None:
    result = run("quizzes", str(tmp_path), "--unit", "7.9")
    assert result.exit_code == 2
    assert "no quizzes for unit '7.9'. There are some for 7.1, 7.2, 7.3, 7.4, 7.5." in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.touch()
    result = run("quizzes", str(path))
    assert result.exit_code == 2 and "can't be written" in result.stderr
