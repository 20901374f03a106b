"""A matplotlib figure as inline SVG that follows the page: its colours, its font, its width.

matplotlib knows fixed colours only, but the page is light or dark as the reader wishes. So figures
are drawn in the stand-in colours of :class:`Ink`, each of which becomes a CSS variable of the page.
Text stays text (searchable, read aloud, in the page's font). Equal input gives equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Ink", "as_svg", "drawing"]


class Ink:
    """Stand-in colours. Each is unlike any other and becomes ``var(--name)``."""

    TEXT = "#010a01"
    MUTED = "#010a02"
    GRID = "#010a03"
    PAPER = "#010a04"
    FIRST = "#010a05"
    SECOND = "#010a06"
    THIRD = "#010a07"
    FOURTH = "#010a08"
    BAD = "#010a09"


_VARIABLES = {
    Ink.TEXT: "var(--text)",
    Ink.MUTED: "var(--muted)",
    Ink.GRID: "var(--grid)",
    Ink.PAPER: "var(--card)",
    Ink.FIRST: "var(--first)",
    Ink.SECOND: "var(--second)",
    Ink.THIRD: "var(--third)",
    Ink.FOURTH: "var(--fourth)",
    Ink.BAD: "var(--bad)",
}

# What matplotlib writes that one document with many figures has no use for: the standard's prose,
# a style sheet that would apply to the whole page, a fixed size, the font of the layout, and more
# digits than a screen has.
_CLEANING = [
    (re.compile(r"<metadata>.*?</metadata>", re.DOTALL), ""),
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"<defs>\s*<style\b.*?</style>\s*</defs>", re.DOTALL), ""),
    (
        re.compile(r'(?<=<svg )([^>]*?)\b(?:width="[^"]*" height|height="[^"]*" width)="[^"]*"'),
        r"\1",
    ),
    (re.compile(r"font-family: [^;\"]*;? ?"), ""),
    (re.compile(r"font: ([\d.]+px) [^;\"]*"), r"font-size: \1"),
    (re.compile(r" transform=\"rotate\(-?0 [^)]*\)\""), ""),
    (re.compile(r">\s+<"), "><"),
    (re.compile(r"\s*\n"), " "),
]

_COORDINATES = re.compile(r' (?:d|x|y|width|height|transform)="[^"]*"')
_LONG_NUMBER = re.compile(r"(\d\.\d\d)\d+")

_SETTINGS: Any = {  # matplotlib types the keys as a union of all its settings
    "svg.fonttype": "none",  # text as text
    "text.parse_math": False,  # a "$" is a dollar
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout on every machine
    "font.size": 10.5,
    "text.color": Ink.TEXT,
    "axes.edgecolor": Ink.GRID,
    "axes.labelcolor": Ink.MUTED,
    "axes.labelsize": 10.5,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": Ink.GRID,
    "grid.linewidth": 0.8,
    "xtick.color": Ink.GRID,
    "xtick.labelcolor": Ink.MUTED,
    "ytick.color": Ink.GRID,
    "ytick.labelcolor": Ink.MUTED,
    "ytick.left": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


@contextmanager
def drawing(width: float = 420, height: float = 240) -> Iterator[Figure]:
    """A figure of ``width`` x ``height`` points, in the page's style.

    420 points is what a phone shows at about its natural size; wide screens put two in a row.
    A plain Figure is used, never pyplot: no global state and no window system.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**mpl.rcParamsDefault, **_SETTINGS, "backend": "svg"}):
        yield Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")


def as_svg(figure: Figure, name: str, title: str, *, caption: str = "") -> Markup:
    """The figure as one ``<svg>`` element.

    Args:
        figure: Drawn within :func:`drawing`.
        name: Unique in the page. Ids are made unique with it: many figures share one document.
        title: What the figure shows, for those who do not see it.
        caption: The finding in a sentence, read out after the title.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    text = _COORDINATES.sub(lambda found: _LONG_NUMBER.sub(r"\1", found[0]), text)
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(
        r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", text
    )
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    label = f"{title}. {caption}" if caption else title
    head = f'<svg role="img" aria-label="{escape(label)}" '
    return Markup(head + text[len("<svg ") :].strip())  # noqa: S704  matplotlib's own output; the label is escaped
