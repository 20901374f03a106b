// Attempts: how many devices each had, how long it took, what failed.

import { byId, element, setHidden, setText, showRows } from "./dom.js";
import { bytes, bytesMark, count, decimals, numberMark, plural, seconds, secondsMark, words } from "./format.js";
import { Plot } from "./plots.js";

const PAGE = 10;
const PLOTTED = 100;
const shown = {};
let most = PAGE;

const gaveBack = (attempt) => Object.values(attempt.given_back).reduce((sum, number) => sum + number, 0);

const DEVICES = [
  ["merged", "merged", (attempt) => attempt.merged],
  ["stored", "stored", (attempt) => attempt.stored],
  ["training", "training", (attempt) => attempt.training],
  ["late", "late", (attempt) => attempt.late + attempt.stale],
  ["given back", "given-back", gaveBack],
  ["unused", "unused", (attempt) => attempt.unused],
];

const SECONDS_STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21_600, 43_200, 86_400, 259_200, 864_000];

function plot(name, format, mark, series, steps = null) {
  shown[name] ??= new Plot(byId(name), { bars: true, across: "attempt", format, mark, steps, series });
  return shown[name];
}

function showPlots(attempts) {
  const entries = attempts.map((attempt) => attempt.entry);
  const latest = attempts.at(-1);
  const whole = (number) => (Number.isInteger(number) ? count(number) : "");
  plot("cohorts", count, whole, DEVICES.map(([label, colour]) => ({ label, colour }))).show(
    [entries, ...DEVICES.map(([, , number]) => attempts.map(number))],
    `Devices by attempt; the latest, ${latest.entry}: ${DEVICES.map(([label, , number]) => `${number(latest)} ${label}`).join(", ")}`,
  );
  plot("bytes", bytes, bytesMark, [{ label: "bytes", colour: "stored" }]).show(
    [entries, attempts.map((attempt) => attempt.bytes)],
    `Bytes received by attempt; the latest, ${latest.entry}: ${bytes(latest.bytes)}`,
  );
  plot("seconds", seconds, secondsMark, [{ label: "seconds", colour: "training" }], SECONDS_STEPS).show(
    [entries, attempts.map((attempt) => Math.round(10 * (attempt.seconds ?? 0)) / 10)],
    `Seconds by attempt; the latest, ${latest.entry}: ${seconds(latest.seconds)}`,
  );
  const stale = attempts.filter((attempt) => attempt.mean_staleness !== null);
  setHidden("staleness", stale.length === 0);
  if (stale.length) {
    plot("staleness", (number) => decimals(number, 2), numberMark, [{ label: "versions behind", colour: "unused" }]).show(
      [stale.map((attempt) => attempt.entry), stale.map((attempt) => attempt.mean_staleness)],
      `Staleness by attempt; the latest, ${stale.at(-1).entry}: ${decimals(stale.at(-1).mean_staleness, 2)} versions behind`,
    );
  }
}

const CAUSES = { deadline: "too few updates at the deadline", rollback: "an operator rolled back" };

export function stateOf(attempt) {
  return attempt.failure ? `failed: ${CAUSES[attempt.failure]}` : attempt.state;
}

function row(attempt, chosen, onChoose) {
  const number = (value, wide = true) => element("td", { class: wide ? "number wide" : "number" }, value);
  const name = attempt.attempt > 1 ? `${count(attempt.round)}, try ${count(attempt.attempt)}` : count(attempt.round);
  const state = attempt.made === null ? words(attempt.state) : `version ${count(attempt.made)}`;
  return element(
    "tr",
    { "aria-current": attempt.entry === chosen ? "true" : null },
    element("td", {}, name),
    element("td", {}, element("span", { class: `word ${attempt.state}`, title: stateOf(attempt) }, state)),
    number(`${count(attempt.merged + attempt.stored)} of ${count(attempt.goal)}`, false),
    number(count(attempt.late + attempt.stale)),
    number(count(gaveBack(attempt))),
    number(bytes(attempt.bytes)),
    number(seconds(attempt.seconds)),
    element(
      "td",
      { class: "actions" },
      element("button", { type: "button", "aria-label": `Devices of attempt ${attempt.entry}`, onclick: () => onChoose(attempt.entry) }, "Devices"),
    ),
  );
}

function showTable(attempts, chosen, onChoose) {
  const latest = attempts.toReversed().slice(0, most);
  const rows = latest.map((attempt) => ({
    key: attempt.entry,
    seen: JSON.stringify({ ...attempt, seconds: Math.floor(attempt.seconds ?? -1), chosen: attempt.entry === chosen }),
    make: () => row(attempt, chosen, onChoose),
  }));
  showRows(byId("attempts"), rows);
  setHidden("more-attempts", attempts.length <= most);
  byId("more-attempts").onclick = () => {
    most += 50;
    showTable(attempts, chosen, onChoose);
  };
}

// Why devices' work came to nothing, most often first.
export function causes(attempts) {
  const found = new Map();
  const add = (name, number) => number && found.set(name, (found.get(name) ?? 0) + number);
  for (const attempt of attempts) {
    add("late: the round went on without them", attempt.late);
    add("stale: too many versions were made meanwhile", attempt.stale);
    add("stored for nothing: the attempt failed", attempt.unused);
    for (const [reason, number] of Object.entries(attempt.given_back)) add(`given back: ${words(reason)}`, number);
    if (attempt.failure) add(`attempts: ${CAUSES[attempt.failure]}`, 1);
  }
  return [...found].sort(([, a], [, b]) => b - a);
}

function showFailures(attempts) {
  const found = causes(attempts);
  const largest = Math.max(1, ...found.map(([, number]) => number));
  setHidden("failures-empty", found.length > 0);
  const rows = found.map(([name, number]) => ({
    key: name,
    seen: `${number} of ${largest}`,
    make: () => {
      const bar = element("span", { class: "bar" });
      bar.style.width = `${(100 * number) / largest}%`;
      return element("li", {}, element("span", {}, name), element("span", { class: "number" }, count(number)), bar);
    },
  }));
  showRows(byId("failures"), rows);
  setText("failures-span", found.length ? `in the latest ${plural(attempts.length, "attempt")}` : "");
}

export function showRounds(attempts, chosen, onChoose) {
  const begun = attempts.some((attempt) => attempt.seconds !== null);
  setHidden("rounds-empty", begun);
  for (const name of ["cohorts", "bytes", "seconds"]) setHidden(name, !begun);
  if (begun) showPlots(attempts.slice(-PLOTTED));
  showTable(attempts, chosen, onChoose);
  showFailures(attempts);
}
