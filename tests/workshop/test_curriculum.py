"""Curriculum and notebooks hold together: what a unit has to cover, some notebook of it covers, as asked."""

import pytest

from course_utils.workshop import notebooks

TOPICS = notebooks.curriculum()
UNITS = sorted({topic.unit for topic in TOPICS})
# Units that are not written in full yet. A test fails when one is: this list can only get shorter.
UNFINISHED = ()


def notebooks_of(unit: str) -> list:
    return [path for path in notebooks.built() if notebooks.unit_of(path) == unit]


def tagged(paths: list) -> set[str]:
    return {name for path in paths for name in notebooks.topics(path)}


def executed(paths: list) -> set[str]:
    """The topics that sit on a code cell with an output."""
    cells = [cell for path in paths for cell in notebooks.load(path).cells]
    return {name for cell in cells if cell.cell_type == "code" and cell.outputs for name in notebooks.topic_tags(cell)}


def gaps(unit: str, paths: list) -> list[str]:
    """What the notebooks in `paths` lack of `unit`'s topics, one line each."""
    core = tagged([path for path in paths if "_lab_" not in path.name])
    anywhere, ran = tagged(paths), executed(paths)
    lines = []
    for topic in (topic for topic in TOPICS if topic.unit == unit):
        if topic.core and topic.id not in core:
            lines.append(f"topic:{topic.id} belongs into the core notebook of {unit}, and no cell there has its tag")
        elif topic.id not in anywhere:
            lines.append(f"topic:{topic.id} is in no notebook of {unit}: {topic.title}")
        elif topic.need in ("run", "tool") and topic.id not in ran:
            lines.append(f"topic:{topic.id} has to run, but no code cell with it has output")
    return lines


@pytest.mark.parametrize("unit", UNITS)
def test_every_topic_is_covered_as_the_curriculum_asks(unit):
    missing = gaps(unit, notebooks_of(unit))
    if unit in UNFINISHED:
        assert missing, f"unit {unit} covers everything now: take it off UNFINISHED"
    else:
        assert not missing, "\n".join(missing)


def test_a_topic_in_the_wrong_place_is_a_gap(tmp_path):
    import nbformat
    from nbformat import v4

    def write(name: str, cells: list):
        nbformat.write(v4.new_notebook(cells=cells), tmp_path / name)
        return tmp_path / name

    def cell(topic: str, output: bool = True):
        outputs = [v4.new_output("stream", text="1")] if output else []
        return v4.new_code_cell("1", outputs=outputs, metadata={"tags": [f"topic:{topic}"]})

    text = v4.new_markdown_cell("words", metadata={"tags": ["topic:model-table", "topic:early-fusion"]})
    core = write("7.1_core.ipynb", [cell("clip-zero-shot"), text, cell("late-fusion", output=False)])
    lab = write("7.1_lab_x.ipynb", [cell("vae"), cell("contrastive-loss"), cell("whisper-multilingual", output=False)])
    found = gaps("7.1", [core, lab])
    for covered in ("clip-zero-shot", "vae", "model-table"):
        assert not [line for line in found if f"topic:{covered} " in line]
    assert "topic:contrastive-loss belongs into the core notebook of 7.1, and no cell there has its tag" in found
    for idle in ("early-fusion", "late-fusion", "whisper-multilingual"):
        assert f"topic:{idle} has to run, but no code cell with it has output" in found
    assert [line for line in found if line.startswith("topic:video is in no notebook of 7.1")]
