"""Figures, tables and progress bars in one style, for light and dark themes and every kind of colour vision.

use_style()
fig, ax = figure()
ax.plot(...)
show(fig, alt="Loss falls from 4 to 1 in 300 steps.")
"""

import base64
import html
import inspect
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

# Okabe and Ito's colours: told apart with every common form of colour blindness, also on grey.
# Yellow is left out of the cycle, because it can't be read as a thin line on white.
PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
CYCLE = [colour for name, colour in PALETTE.items() if name != "yellow"]
GREY = "#767676"


def use_style() -> None:
    """Set matplotlib to the course's style: opaque white paper, whatever the theme, and large type."""
    import matplotlib

    matplotlib.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.facecolor": "white",
            "text.color": "black",
            "text.parse_math": False,  # a price in dollars is no formula
            "axes.labelcolor": "black",
            "xtick.color": "black",
            "ytick.color": "black",
            "figure.figsize": (7.0, 3.8),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#DDDDDD",
            "axes.axisbelow": True,
            "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
            "lines.linewidth": 2,
            "image.cmap": "viridis",
            "legend.frameon": False,
        }
    )


def figure(rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 3.8):
    """A new figure and its axes in the course's style, `width` by `height` inches in all."""
    import matplotlib.pyplot as plt

    use_style()
    return plt.subplots(rows, columns, figsize=(width, height))


def picture(ax, image, title: str = "", size: int = 12, ink: str = "black") -> None:
    """Draw `image`, a PIL picture or numbers (height, width, 3) in 0..1, on `ax` without ticks.

    The `title` is written in the colour `ink`, `size` points high.
    """
    ax.imshow(image)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=size, color=ink)


def heatmap(
    ax,
    values,
    x: Sequence[str] | None = None,
    y: Sequence[str] | None = None,
    label: str = "",
    low: float | None = None,
    high: float | None = None,
):
    """Draw the matrix `values` (rows downwards) on `ax` in viridis, which also reads well in grey.

    `x` and `y` name columns and rows. With a `label` a colour bar carries it; `low` and `high` fix its ends.
    """
    image = ax.imshow(values, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    ax.grid(False)
    if x is not None:
        ax.set_xticks(range(len(x)), x, rotation=90 if max(map(len, x), default=0) > 2 else 0)
    if y is not None:
        ax.set_yticks(range(len(y)), y)
    if label:
        ax.figure.colorbar(image, ax=ax, label=label)
    return image


def named_bars(ax, names: Sequence[str], shares: Sequence[float]) -> None:
    """Horizontal bars of `shares` (0 to 1) on `ax`, the first on top; each carries its name and its per cent."""
    ax.barh(range(len(names)), shares, color=PALETTE["sky"])
    for place, (name, share) in enumerate(zip(names, shares, strict=True)):
        ax.text(0.04, place, f"{name} {share:.0%}", va="center", fontsize=8)
    ax.set(yticks=[], xlim=(0, 1), xticks=[0, 1])
    ax.invert_yaxis()


def running_mean(values: Sequence[float], width: int) -> tuple[Any, Any]:
    """Steps, counted from 0, and the mean of the `width` values around each: a restless curve made readable.

    Both arrays lack the first and the last `width // 2` steps. ValueError for an even width, or fewer values.
    """
    import numpy as np

    if width % 2 == 0 or len(values) < width:
        raise ValueError(f"A mean over {width} of {len(values)} values: take an odd width, at most their number.")
    half = width // 2
    steps = np.arange(half, len(values) - half)
    weights = np.ones(width) / width
    return steps, np.convolve(values, weights, "valid")


def told(values: Mapping[str, object]) -> str:
    """ "a: 1; b: 2": names and values as words, for the alternative text of a figure."""
    return "; ".join(f"{name}: {value}" for name, value in values.items())


def png(fig) -> bytes:
    """The figure as a PNG file on opaque white paper, in its 256 best colours where that makes it smaller."""
    _read_powers(fig)
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", facecolor="white", bbox_inches="tight")  # no label is cut off
    return smaller(drawn.getvalue())


def _read_powers(fig) -> None:
    """Let matplotlib read as formulas what it writes as formulas: the powers of ten along a logarithmic axis."""
    scales = {ax.get_xscale() for ax in fig.axes} | {ax.get_yscale() for ax in fig.axes}
    changed = scales - {"linear"}
    while changed:  # each drawing may move the axes, and with them bring new numbers
        fig.draw_without_rendering()
        changed = [text for text in fig.findobj(_is_power) if not text.get_parse_math()]
        for text in changed:
            text.set_parse_math(True)


def _is_power(artist) -> bool:
    from matplotlib.text import Text

    return isinstance(artist, Text) and artist.get_text().startswith(r"$\mathdefault{")


def smaller(data: bytes) -> bytes:
    """The same PNG in 256 colours, if that takes less room: dithered, or plain where nobody sees the difference."""
    import numpy as np
    from PIL import Image, ImageChops, ImageFilter

    image, blur = Image.open(io.BytesIO(data)).convert("RGB"), ImageFilter.BoxBlur(2)
    palette = image.quantize(256, Image.Quantize.MAXCOVERAGE)  # keeps the colour of a small toy, median cut doesn't
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    # The search for the nearest colour is a rough one: what is nearly white becomes white, so that paper stays paper.
    colours[colours.min(1) > 247] = 255
    palette.putpalette(colours.flatten().tolist())
    # Pillow dithers, which keeps grain and soft shades, only with a palette that is given.
    made = [image, image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)]
    off = ImageChops.difference(image.filter(blur), palette.convert("RGB").filter(blur))
    if max(high for _, high in off.getextrema()) < 12:  # of 255
        made.append(palette)
    return min((_encoded(one) for one in made), key=len)


def _encoded(image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


@dataclass(frozen=True)
class Picture:
    """A PNG with a text for those who can't see it. Jupyter shows the picture, a terminal the text.

    It goes out as an HTML image and not as `image/png`, because JupyterLab 4 and nbconvert's default template
    both drop the `alt` in the metadata of an `image/png`.
    """

    data: bytes
    alt: str

    def _repr_html_(self) -> str:
        source = base64.b64encode(self.data).decode()
        return f'<img src="data:image/png;base64,{source}" alt="{html.escape(self.alt)}">'

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def show(fig, alt: str) -> None:
    """Display `fig` with the alternative text `alt` (a sentence that says what is to be seen) and close it.

    Raises ValueError for a text of fewer than three words: a title is no description.
    """
    from IPython.display import display
    from matplotlib import pyplot as plt

    if len(alt.split()) < 3:
        raise ValueError("show(fig, alt=...) needs a sentence that says what the figure shows.")
    display(Picture(png(fig), alt))
    plt.close(fig)


@dataclass(frozen=True)
class Table:
    """A small table that reads well in a notebook, on the web and in a terminal. Make it with `table`."""

    rows: list[list[str]]
    header: list[str]
    caption: str = ""
    right: frozenset[int] = field(default_factory=frozenset)

    def _repr_html_(self) -> str:
        def line(cells: list[str], tag: str) -> str:
            align = ["right" if i in self.right else "left" for i in range(len(cells))]
            scope = ' scope="col"' if tag == "th" else ""
            inner = [
                f'<{tag}{scope} style="text-align: {a}">{html.escape(c)}</{tag}>'
                for a, c in zip(align, cells, strict=True)
            ]
            return f"<tr>{''.join(inner)}</tr>"

        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        body = "\n".join(line(row, "td") for row in self.rows)
        return f"<table>{caption}<thead>{line(self.header, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table>"

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        columns = zip(*lines, strict=True)
        widths = [max(map(len, column)) for column in columns]

        def line(row: list[str]) -> str:
            pairs = enumerate(zip(row, widths, strict=True))
            cells = [c.rjust(w) if i in self.right else c.ljust(w) for i, (c, w) in pairs]
            return "  ".join(cells).rstrip()

        rule = "  ".join("-" * width for width in widths)
        parts = [self.caption, line(self.header), rule, *map(line, self.rows)]
        return "\n".join(parts if self.caption else parts[1:])


def table(rows: Iterable[Mapping], caption: str = "", digits: int = 2) -> Table:
    """A table of `rows`, dictionaries with the same keys or a DataFrame; floats get `digits` decimals.

    Columns of numbers are set to the right. Raises ValueError if there is no row.
    """
    if hasattr(rows, "to_dict"):
        rows = rows.to_dict("records")
    rows = list(rows)
    if not rows:
        raise ValueError("table() needs at least one row.")
    header = list(rows[0])
    right = frozenset(i for i, key in enumerate(header) if _is_numeric(rows, key))
    text = [_cells(row, header, digits) for row in rows]
    return Table(text, [str(key) for key in header], caption, right)


def _is_numeric(rows: Sequence[Mapping], key: object) -> bool:
    """Whether a column holds nothing but numbers."""
    return all(isinstance(row[key], Real) for row in rows)


def _cells(row: Mapping, header: Iterable, digits: int) -> list[str]:
    """A row of a table as texts, in the order of its header."""
    return [_cell(row[key], digits) for key in header]


def _cell(value, digits: int) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, Integral) else str(value)


@dataclass(frozen=True)
class Source:
    """Python code that a notebook shows in colour and a terminal shows as it is. Make it with `source`."""

    code: str

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"

    def __repr__(self) -> str:
        return self.code


def source(*things: object) -> Source:
    """The code of functions and classes of the course, as it stands in the package, for the last line of a cell."""
    return Source("\n\n".join(inspect.getsource(thing).rstrip() for thing in things))


def progress(
    items: Iterable, label: str, total: int | None = None, weigh: Callable[[Any], float] = lambda item: 1
) -> Iterator:
    """Yield `items` and show how far it is: a line in a terminal, a bar in a notebook that goes when done.

    Each item counts as much as `weigh` says; `total` is the sum of all. Shows nothing where nobody watches: with
    COURSE_QUIET=1, and where the output is a file or a pipe.
    """
    show_step = _watcher(label)
    if show_step is None:
        yield from items
        return
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    done, last = 0.0, 0.0
    show_step(0, total)
    for item in items:
        yield item
        done += weigh(item)
        if time.monotonic() - last > 0.2:  # five times a second is enough
            show_step(round(done), total)
            last = time.monotonic()
    show_step(None, total)


def _watcher(label: str):
    """A function of (done, total) that shows a step, None for `done` clears it; None if nobody watches."""
    if os.environ.get("COURSE_QUIET") == "1":
        return None
    if in_notebook():
        return _notebook_bar(label)
    return _terminal_line(label) if sys.stderr.isatty() else None


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def _notebook_bar(label: str):
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)

    def show_step(done: int | None, total: int | None) -> None:
        bar = "" if total is None or done is None else f'<progress value="{done}" max="{total}"></progress> '
        handle.update(HTML("" if done is None else f"{bar}{html.escape(label)}: {done} of {total or '?'}"))

    return show_step


def _terminal_line(label: str):
    def show_step(done: int | None, total: int | None) -> None:
        text = "" if done is None else f"{label}: {done} of {total or '?'}"
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()

    return show_step
