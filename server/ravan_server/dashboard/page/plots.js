// Plots by uPlot, in the colours of the page's style sheet. Each is an image with words for who cannot see it.

/* global uPlot */

const HEIGHT = 170;
const plots = new Set();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// A plot below the caption of a figure. `shape` is {bars, across, format, mark, series: [{label, colour}]}: `format` a
// number for the legend, `mark` one for the axis,
// whose distances are among `steps`.
export class Plot {
  constructor(figure, shape) {
    this.figure = figure;
    this.shape = shape;
    this.box = document.createElement("div");
    this.box.className = "plot";
    this.box.setAttribute("role", "img");
    figure.append(this.box);
    this.columns = [[], ...shape.series.map(() => [])];
    this.drawn = null;
    this.seen = "";
    new ResizeObserver(() => this.resize()).observe(figure);
    plots.add(this);
  }

  // `columns` are x and one array for each series; `words` says the same to who cannot see.
  show(columns, words) {
    this.box.setAttribute("aria-label", words);
    const seen = JSON.stringify(columns);
    if (seen === this.seen) return;
    this.seen = seen;
    this.columns = columns;
    if (this.drawn === null) this.draw();
    else this.drawn.setData(this.shape.bars ? stacked(columns) : columns);
  }

  resize() {
    const width = Math.floor(this.figure.clientWidth);
    if (width > 0 && this.drawn !== null && this.drawn.width !== width) this.drawn.setSize({ width, height: HEIGHT });
    else if (width > 0 && this.drawn === null) this.draw();
  }

  draw() {
    const width = Math.floor(this.figure.clientWidth);
    this.drawn?.destroy();
    this.drawn = null;
    if (width > 0 && this.columns[0].length) this.drawn = new uPlot(this.options(width), this.data(), this.box);
  }

  data() {
    return this.shape.bars ? stacked(this.columns) : this.columns;
  }

  options(width) {
    const { bars, format, mark, steps, series } = this.shape;
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("grid"), width: 1 }, font: "12px system-ui, sans-serif" };
    const paths = bars ? uPlot.paths.bars({ size: [0.7, 28], align: 0 }) : undefined;
    // Where no cursor is, the legend has the latest values.
    const value = (at, said) => (_, __, ___, index) => {
      const found = this.columns[at][index ?? this.columns[0].length - 1];
      return found === null || found === undefined ? "–" : said(found);
    };
    return {
      width,
      height: HEIGHT,
      cursor: { y: false, drag: { x: true, y: false } },
      legend: { live: true },
      scales: {
        x: { time: false, range: (_, low, high) => (bars ? [low - 0.6, high + 0.6] : low === high ? [low - 1, high + 1] : [low, high]) },
        y: { range: (_, low, high) => range(bars ? 0 : low, high) },
      },
      axes: [
        { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000], values: (_, marks) => marks.map((each) => (Number.isInteger(each) ? String(each) : "")) },
        { ...axis, size: 68, ...(steps ? { incrs: steps } : {}), values: (_, marks) => marks.map((each) => mark(each)) },
      ],
      series: [
        { label: this.shape.across, value: value(0, String) },
        ...series.map((each, at) => ({
          label: each.label,
          stroke: colour(each.colour),
          fill: bars ? colour(each.colour) : undefined,
          width: bars ? 0 : 2,
          paths,
          spanGaps: true,
          points: { show: !bars && this.columns[0].length < 60, size: 6, fill: colour(each.colour) },
          value: value(at + 1, format),
        })),
      ],
    };
  }
}

// Bars on top of each other are drawn as sums: the first series is the highest, and lies behind.
function stacked([across, ...columns]) {
  const sums = across.map(() => 0);
  const found = [];
  for (const column of columns.toReversed()) {
    column.forEach((value, at) => {
      sums[at] += value ?? 0;
    });
    found.unshift([...sums]);
  }
  return [across, ...found];
}

function range(low, high) {
  if (low === null || high === null) return [0, 1];
  if (low === high) return [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
  const room = (high - low) * 0.08;
  return [low === 0 ? 0 : low - room, high + room];
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach((plot) => plot.draw()));
