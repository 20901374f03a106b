"""The figures of a run's page. Each is a pure function of plain numbers to inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ravan_edge.simulate.report.svg import Ink, as_svg, drawing
from ravan_edge.simulate.report.words import as_bytes, as_count, as_percent, as_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Line", "curves", "heatmap", "rate_figure", "stacked_bars"]

_MOST_BARS = 120
_FEWEST_PLACES = 6
_WITH_DOTS = 40
_HEAT = (0x12, 0x9C, 0x8C)  # readable on light and on dark: an image cannot take a CSS variable
_MOST_HEAT_ROWS = 240

Line = tuple[str, Sequence[float], Sequence[float]]
"""A name, its x and its y."""

_UNITS: Mapping[str, Callable[[float], str]] = {
    "bytes": as_bytes,
    "seconds": as_seconds,
    "percent": lambda value: as_percent(value).replace(".0 ", " "),
    "count": as_count,
    "number": lambda value: f"{value:.3g}",
}


def _ticks(axes: Axes, which: str, unit: str, most: int = 5) -> None:
    """Round numbers on an axis, in the unit's own steps (60 s are a minute)."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    steps = [1, 2, 5, 10]
    low, high = axis.get_view_interval()
    if unit == "seconds":
        scale = max((s for s in (1.0, 60.0, 3600.0, 86400.0) if s <= high), default=1.0)
        count = max(high / scale, 1e-9)
        step = _round_step(count / most) * scale
        if scale > 1 and step < scale:
            step = next(
                (scale * part for part in (1 / 6, 1 / 4, 1 / 2) if scale * part >= step), scale
            )
        axis.set_ticks([step * i for i in range(math.ceil(low / step), int(high / step) + 1)])
    else:
        axis.set_major_locator(
            MaxNLocator(most, steps=steps, integer=unit == "count", min_n_ticks=1)
        )
    show = _UNITS[unit]
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value) if value else "0"))


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(max(least, 1e-12)))
    return next(part * power for part in (1, 2, 5, 10) if part * power >= least * (1 - 1e-9))


def curves(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    x_unit: str,
    y_unit: str,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Lines over one axis: the first solid, the second dashed.

    Args:
        name: Unique in the page.
        title: For those who do not see it.
        lines: At least one, each with at least one point.
        x_label: What the x axis counts.
        x_unit: "count", "bytes" or "seconds".
        y_unit: "percent" (0 .. 1) or "number".
        mark: An x and a word: a ring on every line there, with the word beside the first.
    """
    with drawing() as figure:
        axes = figure.add_subplot()
        styles = ((Ink.FIRST, "-"), (Ink.SECOND, (0, (4, 2.4))), (Ink.THIRD, "-"))
        for (_, x, y), (color, style) in zip(lines, styles, strict=False):
            few = len(x) <= _WITH_DOTS
            axes.plot(
                x, y, color=color, linestyle=style,
                marker="o" if few else "", markersize=3.6, clip_on=False,
            )  # fmt: skip
            if mark and mark[0] in list(x):
                at = list(x).index(mark[0])
                axes.plot(
                    [x[at]], [y[at]], marker="o", markersize=9.5, markerfacecolor="none",
                    markeredgecolor=color, markeredgewidth=1.8, clip_on=False,
                )  # fmt: skip
        values = [value for _, _, y in lines for value in y if math.isfinite(value)]
        top = max(values, default=1.0)
        axes.set_ylim(0, min(1.0, max(0.05, top * 1.12)) if y_unit == "percent" else top * 1.1 or 1)
        right = max((value for _, x, _ in lines for value in x), default=1.0) or 1.0
        axes.set_xlim(0 if right > 0 else None, right)
        if mark:
            axes.axvline(mark[0], color=Ink.MUTED, linewidth=0.9, linestyle=(0, (1, 2.5)), zorder=0)
            late = mark[0] > right / 2
            axes.annotate(
                mark[1], (mark[0], 0), xytext=(-5 if late else 5, 5), textcoords="offset points",
                ha="right" if late else "left", color=Ink.MUTED, fontsize=9.5,
            )  # fmt: skip
        _ticks(axes, "x", x_unit)
        _ticks(axes, "y", y_unit)
        axes.set_xlabel(x_label)
        first = lines[0]
        show = _UNITS[y_unit]
        return as_svg(
            figure,
            name,
            title,
            caption=f"{first[0]}: {show(first[2][0])} at the start, {show(first[2][-1])} at the end",
        )


def stacked_bars(
    name: str,
    title: str,
    rounds: Sequence[int],
    layers: Sequence[tuple[str, str, Sequence[float]]],
    *,
    unit: str,
) -> tuple[Markup, int]:
    """A bar for each round, its parts stacked.

    Args:
        name: Unique in the page.
        title: For those who do not see it.
        rounds: Their numbers, ascending.
        layers: (what, colour, value of each round), from the bottom up.
        unit: "bytes", "seconds" or "count".

    Returns:
        The figure, and how many rounds one bar is the mean of (1 unless there are very many).
    """
    size = -(-len(rounds) // _MOST_BARS)
    starts = range(0, len(rounds), size)
    with drawing() as figure:
        axes = figure.add_subplot()
        middles = [float(np.mean(rounds[start : start + size])) for start in starts]
        bottom = np.zeros(len(middles))
        for _, color, values in layers:
            heights = np.array([float(np.mean(values[start : start + size])) for start in starts])
            axes.bar(middles, heights, bottom=bottom, width=0.74 * size, color=color, linewidth=0)
            bottom += heights
        top = float(bottom.max(initial=0.0))
        axes.set_ylim(0, top * 1.08 or 1)
        # One round is a bar too, not a wall.
        spare = max(0.6 * size, (_FEWEST_PLACES - len(middles)) / 2)
        axes.set_xlim(rounds[0] - spare, rounds[-1] + spare)
        if len(rounds) <= _FEWEST_PLACES:
            axes.set_xticks(list(rounds))
        else:
            _ticks(axes, "x", "count", 8)
        _ticks(axes, "y", unit)
        axes.set_xlabel("round")
        show = _UNITS[unit]
        caption = "; ".join(f"{what}: {show(sum(values))} in all" for what, _, values in layers)
        return as_svg(figure, name, title, caption=caption), size


def heatmap(
    name: str, title: str, cells: Sequence[Sequence[int]], rows: Sequence[int]
) -> tuple[Markup, int]:
    """Counts as depth of colour, one row a device, one column a class, and bars of all its rows.

    An image, not one shape a cell: 200 devices and 500 classes stay some kilobytes.

    Args:
        name: Unique in the page.
        title: For those who do not see it.
        cells: [devices][classes]; empty: the bars alone.
        rows: [devices].

    Returns:
        The figure, and how many devices are drawn (evenly chosen where there are very many).
    """
    kept = np.arange(len(rows))
    if len(rows) > _MOST_HEAT_ROWS:
        kept = np.linspace(0, len(rows) - 1, _MOST_HEAT_ROWS).round().astype(int)
    height = min(460.0, max(130.0, 70 + 11.0 * len(kept)))
    lengths = np.array(rows)[kept]
    caption = f"{as_count(int(lengths.max()))} rows on the largest device"
    with drawing(720, height) as figure:
        if cells:
            axes, bars = figure.subplots(1, 2, width_ratios=(6, 1), sharey=True)
            counts = np.array(cells, dtype=np.float64)[kept]
            _cells(axes, counts)
            caption += f"; {as_percent(float(np.mean(counts > 0)))} of the cells hold rows"
        else:
            axes = bars = figure.add_subplot()
        axes.set_ylabel("devices")
        axes.set_yticks([])
        bars.barh(
            range(len(kept)),
            lengths,
            height=0.74 if len(kept) <= 60 else 1.0,
            color=Ink.FOURTH,
            linewidth=0,
        )
        bars.grid(visible=False)
        bars.set_ylim(len(kept) - 0.5, -0.5)
        bars.set_xlim(0, float(lengths.max()) * 1.02 or 1)
        _ticks(bars, "x", "count", 3 if cells else 8)
        bars.set_xlabel("rows")
        return as_svg(figure, name, title, caption=caption), len(kept)


def _cells(axes: Axes, counts: NDArray[np.float64]) -> None:
    # The root spreads small counts: most cells hold a few rows, some hold hundreds.
    depth = np.sqrt(counts / max(1.0, float(counts.max())))
    image = np.zeros((*counts.shape, 4), dtype=np.uint8)
    image[..., :3] = _HEAT
    image[..., 3] = np.where(counts > 0, 28 + 227 * depth, 0).round().astype(np.uint8)
    axes.grid(visible=False)
    axes.imshow(
        image,
        aspect="auto",
        interpolation="none",
        extent=(-0.5, counts.shape[1] - 0.5, len(counts) - 0.5, -0.5),
    )
    _ticks(axes, "x", "count", 10)
    axes.set_xlabel("class (its number in the label map)")


def rate_figure(
    name: str,
    lines: Sequence[tuple[str, Sequence[tuple[float, float]], Sequence[tuple[float, float]]]],
    *,
    best: tuple[float, float | None],
) -> Markup:
    """Accuracy over the learning rate, on a logarithmic axis.

    Args:
        name: Unique in the page.
        lines: (what, (rate, mean) ascending, (rate, accuracy) of each seed).
        best: The chosen rate and its mean; a ring marks it.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    colors = (Ink.FIRST, Ink.SECOND, Ink.THIRD, Ink.FOURTH, Ink.BAD)
    with drawing(720, 300) as figure:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for (_, means, dots), color in zip(lines, colors, strict=False):
            if any(dot not in means for dot in dots):
                axes.plot(
                    [x for x, _ in dots], [y for _, y in dots], linestyle="", marker="o",
                    markersize=4, color=color, alpha=0.45, markeredgewidth=0,
                )  # fmt: skip
            axes.plot(
                [x for x, _ in means], [y for _, y in means],
                color=color, marker="o", markersize=4.5,
            )  # fmt: skip
        if best[1] is not None:
            axes.plot(
                [best[0]], [best[1]], marker="o", markersize=12, markerfacecolor="none",
                markeredgecolor=Ink.TEXT, markeredgewidth=1.8,
            )  # fmt: skip
        rates = sorted({x for _, means, dots in lines for x, _ in (*means, *dots)})
        labelled = rates if len(rates) <= 12 else rates[:: -(-len(rates) // 12)]
        axes.xaxis.set_major_locator(FixedLocator(labelled))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("learning rate")
        axes.margins(x=0.06, y=0.15)
        _ticks(axes, "y", "percent")
        found = "" if best[1] is None else f" with {as_percent(best[1])}"
        return as_svg(
            figure,
            name,
            "Validation accuracy over the learning rate",
            caption=f"chosen: {best[0]:g}{found}",
        )
