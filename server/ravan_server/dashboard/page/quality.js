// Accuracy and loss of the versions that are scored.

import { byId, setHidden } from "./dom.js";
import { decimals, numberMark, percent, percentMark } from "./format.js";
import { Plot } from "./plots.js";

const shown = {};

function curve(name, label, colour, format, mark, best, scored) {
  shown[name] ??= new Plot(byId(name), { across: "version", format, mark, series: [{ label, colour }] });
  const points = scored.filter((version) => version.scores[name] !== null && version.scores[name] !== undefined);
  const values = points.map((version) => version.scores[name]);
  if (!values.length) return;
  const top = best(...values);
  const at = points[values.indexOf(top)].version;
  shown[name].show(
    [points.map((version) => version.version), values],
    `${label} by version: ${format(values.at(-1))} at version ${points.at(-1).version}, best ${format(top)} at version ${at}, ` +
      `${format(values[0])} at version ${points[0].version}`,
  );
}

export function showQuality(versions) {
  const scored = versions.filter((version) => version.scores !== null).toReversed();
  setHidden("quality-empty", scored.length > 0);
  setHidden("accuracy", scored.length === 0);
  setHidden("loss", scored.length === 0);
  curve("accuracy", "Accuracy", "plot-1", percent, percentMark, Math.max, scored);
  curve("loss", "Loss", "plot-2", decimals, numberMark, Math.min, scored);
}
