"""Formulas as pictures: TeX between dollar signs becomes SVG, so that an exported page needs no network.

matplotlib draws them; it knows most of TeX's mathematics, and not `\\big` or `\\underbrace`.
"""

import base64
import html
import io
import re

SIZE = 11  # points, as the text around them

_CODE = r"```.*?```|`[^`\n]+`"
_ALONE = r"\$\$(?P<alone>.+?)\$\$"
# Within a line of text: no space inside the dollars, no empty line between them ("$5 or $6" is money).
_INLINE = r"(?<![\\$\w])\$(?P<inline>(?=[^\s$])(?:[^$\n]|\n(?!\n))*?(?<=[^\s$]))\$(?![\w$])"
_FORMULA = re.compile(rf"{_CODE}|{_ALONE}|{_INLINE}", re.DOTALL)


def draw_formulas(markdown: str) -> str:
    """`markdown` with each formula as an SVG image whose alternative text is its TeX; code stays as it is."""
    return _FORMULA.sub(_shown, markdown)


def _shown(match: re.Match[str]) -> str:
    if match["alone"]:
        return f'<p style="text-align: center">{_image(match["alone"])}</p>'
    return _image(match["inline"]) if match["inline"] else match.group()


def _image(tex: str) -> str:
    """An HTML image of the formula; the TeX itself where matplotlib can't read it."""
    from matplotlib import mathtext, rc_context
    from matplotlib.font_manager import FontProperties

    tex = " ".join(tex.split())
    file = io.BytesIO()
    try:
        with rc_context({"mathtext.fontset": "cm"}):
            depth = mathtext.math_to_image(f"${tex}$", file, FontProperties(size=SIZE), format="svg")
    except ValueError:
        return f"<code>{html.escape(tex)}</code>"
    source = base64.b64encode(file.getvalue()).decode()
    style = f"display: inline; vertical-align: -{depth:.1f}pt"
    return f'<img alt="{html.escape(tex)}" style="{style}" src="data:image/svg+xml;base64,{source}">'
