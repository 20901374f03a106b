// What the server is doing now.

import { byId, element, setText, showRows } from "./dom.js";
import { count, decimals, percent, plural, seconds } from "./format.js";

export function showNow(status, versions) {
  const state = byId("state");
  setText("state", status.state);
  state.dataset.state = status.state;
  document.title = `${status.state}, round ${status.round} of ${status.rounds} · Ravan Edge`;
  const scored = versions.find((version) => version.scores !== null);
  const tiles = [
    ["Round", count(status.round), `of ${count(status.rounds)}${status.attempt > 1 ? `, try ${count(status.attempt)}` : ""}`],
    ["Version", count(status.version), ""],
    ["Updates stored", count(status.accepted), `of ${count(status.goal)}`],
    ["On their way", count(status.training), ""],
    ["Devices ever", count(status.devices), ""],
    ["Failed attempts", count(status.failed_attempts), ""],
    ["Deadline", status.deadline_seconds === null ? "–" : seconds(status.deadline_seconds), ""],
    ["Accuracy", percent(scored?.scores.accuracy), scored ? `version ${scored.version}` : "", "below"],
    ["Loss", decimals(scored?.scores.loss), scored ? `version ${scored.version}` : "", "below"],
  ];
  const rows = tiles.map(([name, value, more, place = null]) => ({
    key: name,
    seen: `${value}|${more}`,
    make: () => element("div", {}, element("dt", {}, name), element("dd", {}, value, more ? element("small", { class: place }, ` ${more}`) : null)),
  }));
  showRows(byId("tiles"), rows);
  showCohort(status);
  setText("artifact", `artifact ${status.artifact}`);
}

function showCohort(status) {
  const bar = byId("cohort-bar");
  const words = `${count(status.accepted)} of ${plural(status.goal, "update")} stored, ${count(status.training)} on their way`;
  const whole = Math.max(status.goal, status.accepted + status.training);
  bar.setAttribute("aria-label", words);
  const parts = [["stored", status.accepted], ["training", status.training]];
  bar.replaceChildren(
    ...parts.map(([name, number]) => {
      const part = element("span", { class: name });
      part.style.width = `${(100 * number) / whole}%`;
      return part;
    }),
  );
  setText("cohort-words", words);
}
