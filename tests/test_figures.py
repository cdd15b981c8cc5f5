"""Figures carry their text into HTML, stay opaque, and progress bars are quiet when nobody watches."""

import io
import json
import re
import sys

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image, ImageFilter

from course_utils import figures
from course_utils.settings import DATA


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")


def make_figure():
    fig, ax = figures.figure()
    ax.plot([1, 2, 3], [2.0, 1.0, 0.5])
    ax.set(xlabel="step", ylabel="loss (nats)")
    return fig


def test_png_is_opaque_white_paper():

    picture = Image.open(io.BytesIO(figures.png(make_figure()))).convert("RGBA")
    assert picture.getpixel((0, 0)) == (255, 255, 255, 255)
    assert picture.getchannel("A").getextrema() == (255, 255)


def test_a_picture_has_its_title_and_no_ticks():
    fig, ax = figures.figure()
    figures.picture(ax, np.zeros((4, 6, 3)), "a title", size=9, ink="red")
    title = next(text for text in ax.findobj(Text) if text.get_text() == "a title")
    assert (title.get_color(), title.get_fontsize()) == ("red", 9)
    assert not len(ax.get_xticks()) and not len(ax.get_yticks())
    assert ax.images[0].get_array().shape == (4, 6, 3)


def test_show_displays_once_with_alt_text_and_closes(monkeypatch):
    import IPython.display
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    plt.close("all")
    figures.show(make_figure(), alt='Loss "falls" from 2 to 0.5 & stays')
    assert plt.get_fignums() == []
    assert len(shown) == 1
    assert 'alt="Loss &quot;falls&quot; from 2 to 0.5 &amp; stays"' in shown[0]._repr_html_()


@pytest.mark.parametrize("alt", ["", "Loss curve"])
def test_show_wants_a_sentence(alt):
    with pytest.raises(ValueError, match="sentence"):
        figures.show(make_figure(), alt=alt)


def test_alt_text_survives_nbconvert():
    nbformat = pytest.importorskip("nbformat")
    from nbconvert import HTMLExporter

    picture = figures.Picture(figures.png(make_figure()), "Loss falls from 2 to 0.5")
    output = nbformat.v4.new_output("display_data", {"text/html": picture._repr_html_(), "text/plain": repr(picture)})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show()", outputs=[output])])
    page, _ = HTMLExporter().from_notebook_node(nbformat.reads(json.dumps(notebook), as_version=4))
    assert 'alt="Loss falls from 2 to 0.5"' in page
    assert "No description has been provided" not in page


def test_a_dollar_in_a_label_is_a_dollar_and_powers_are_powers():
    from matplotlib.text import Text

    fig, axes = figures.figure(columns=3)
    axes[0].plot([1, 1000], [1e-3, 1e4], label="$5 or 10% of $_")
    axes[0].set(xscale="log", yscale="log", xlabel=r"in $, or $%", title=r"$5 & $\foo$")
    axes[0].legend()
    figures.heatmap(axes[1], [[1, 2]], x=["$_", "_$_"], y=["$$"], label="$ per $_")
    axes[2].bar(["$a_$", "$_b$"], [1, 2])
    assert figures.png(fig).startswith(b"\x89PNG")
    shown = [text for text in fig.findobj(Text) if text.get_text() and text.get_visible()]
    formulas = {text.get_text() for text in shown if text.get_parse_math()}
    assert formulas and all(one.startswith(r"$\mathdefault{10^{") for one in formulas)
    plain = {text.get_text() for text in shown} - formulas
    assert {"$5 or 10% of $_", r"$5 & $\foo$", "$_", "$$", "$ per $_", "$a_$"} <= plain
    assert not any("mathdefault" in one for one in plain)


def test_pictures_in_few_colours_keep_a_small_toys_colour():
    fig, axes = figures.figure(columns=6, width=9, height=1.8)
    for i, ax in enumerate(axes):
        ax.imshow(Image.open(DATA / "samples" / "pictures" / f"{i:02}.png"))  # number 1 has a small red cylinder
        ax.set_axis_off()
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", facecolor="white")
    files = drawn.getvalue(), figures.smaller(drawn.getvalue())
    assert len(files[1]) < 0.5 * len(files[0])
    blurred = [Image.open(io.BytesIO(file)).convert("RGB").filter(ImageFilter.BoxBlur(2)) for file in files]
    before, after = (np.asarray(image, int) for image in blurred)
    assert np.abs(before - after).max() < 25  # median cut is 100 off


def test_named_bars_begin_on_top_and_carry_their_names():
    fig, ax = figures.figure()
    figures.named_bars(ax, ["a cube", "a ball"], [0.75, 0.25])
    fig.draw_without_rendering()
    texts = {text.get_text(): text.get_window_extent().y0 for text in ax.texts}
    assert texts["a cube 75%"] > texts["a ball 25%"]
    assert [bar.get_width() for bar in ax.patches] == [0.75, 0.25]


def test_a_running_mean_stands_in_the_middle_of_its_values():
    steps, means = figures.running_mean([0, 3, 6, 9, 30], 3)
    assert steps.tolist() == [1, 2, 3]
    assert means.tolist() == pytest.approx([3, 6, 15])


@pytest.mark.parametrize("width", [2, 7])
def test_a_running_mean_has_a_middle_and_enough_values(width):
    with pytest.raises(ValueError, match="odd width"):
        figures.running_mean([1, 2, 3, 4, 5], width)


def test_told_names_each_value():
    assert figures.told({"red cube": 0.5, "ball": "3 of 4"}) == "red cube: 0.5; ball: 3 of 4"


def test_the_palettes_colours_can_be_told_apart():
    from matplotlib.colors import to_rgb

    colours = [to_rgb(colour) for colour in figures.PALETTE.values()]
    gaps = [max(abs(a - b) for a, b in zip(x, y, strict=True)) for x in colours for y in colours if x != y]
    assert min(gaps) > 0.15


def test_table_in_html_and_in_a_terminal():
    result = figures.table([{"model": "a<b", "size": 7.254, "fits": True}, {"model": "c", "size": 13.0, "fits": False}])
    assert "a&lt;b" in result._repr_html_() and "7.25" in result._repr_html_()
    assert result._repr_html_().count("<tr>") == 3
    assert str(result).splitlines()[0].split() == ["model", "size", "fits"]
    assert "yes" in str(result) and "13.00" in str(result)


def test_table_takes_a_dataframe_and_refuses_nothing():
    pandas = pytest.importorskip("pandas")
    assert "2" in str(figures.table(pandas.DataFrame({"a": [1, 2]})))
    with pytest.raises(ValueError, match="one row"):
        figures.table([])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_speaks_in_a_terminal_and_cleans_up(monkeypatch):
    monkeypatch.delenv("COURSE_QUIET", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(figures.progress(range(3), "Training")) == [0, 1, 2]
    assert "Training: 0 of 3" in sys.stderr.getvalue()
    assert sys.stderr.getvalue().endswith("\r\033[K")


def test_progress_counts_what_an_item_weighs(monkeypatch):
    monkeypatch.delenv("COURSE_QUIET", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(figures.time, "monotonic", iter(range(1, 100)).__next__)
    chunks = [b"x" * 2_000_000, b"x" * 500_000, b"x" * 1_500_000]
    assert list(figures.progress(chunks, "model.safetensors (MB)", 4, lambda chunk: len(chunk) / 1e6)) == chunks
    assert re.findall(r"\d of 4", sys.stderr.getvalue()) == ["0 of 4", "2 of 4", "2 of 4", "4 of 4"]


@pytest.mark.parametrize("stream, quiet", [(Terminal(), "1"), (io.StringIO(), "0")])
def test_progress_is_quiet_under_test_and_in_a_pipe(monkeypatch, stream, quiet):
    monkeypatch.setenv("COURSE_QUIET", quiet)
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(figures.progress(iter("abc"), "Training")) == ["a", "b", "c"]
    assert stream.getvalue() == ""


def test_source_is_coloured_in_a_notebook_and_plain_in_a_terminal():
    from course_utils.multimodal import fusion, transcripts

    shown = figures.source(transcripts.plain_words, fusion.without)
    assert shown._repr_markdown_().startswith("```python\ndef plain_words(") and repr(shown).startswith(
        "def plain_words("
    )
    assert "\n\ndef without(" in repr(shown)
