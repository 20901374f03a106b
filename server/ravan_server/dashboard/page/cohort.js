// The devices of one attempt, and what each says about its failure: texts of strangers.

import { byId, element, setHidden, setText, showRows } from "./dom.js";
import { bytes, count, plural, seconds, words } from "./format.js";
import { stateOf } from "./rounds.js";

const PAGE = 20;
let most = PAGE;
let shownEntry = null;

function row(task) {
  const number = (value) => element("td", { class: "number wide" }, value);
  const why = task.failure === null ? "" : task.failure.detail ? `${words(task.failure.reason)}: ${task.failure.detail}` : words(task.failure.reason);
  return element(
    "tr",
    {},
    element("td", { class: "device" }, task.device),
    element("td", {}, element("span", { class: `word ${task.state}` }, words(task.state))),
    number(seconds(task.seconds)),
    number(bytes(task.bytes)),
    number(task.examples === null ? "–" : count(task.examples)),
    element("td", { class: "why" }, why),
  );
}

export function showCohort(attempt, tasks, more) {
  if (attempt.entry !== shownEntry) {
    shownEntry = attempt.entry;
    most = PAGE;
  }
  const which = `round ${count(attempt.round)}${attempt.attempt > 1 ? `, try ${count(attempt.attempt)}` : ""}`;
  const number = more ? `the first ${count(tasks.length)} devices` : plural(tasks.length, "device");
  setText("cohort-title", `Cohort of ${which}: ${number}, ${stateOf(attempt)}`);
  setHidden("cohort-empty", tasks.length > 0);
  setHidden("cohort-table", tasks.length === 0);
  const rows = tasks.slice(0, most).map((task) => ({
    key: task.number,
    seen: JSON.stringify({ ...task, seconds: Math.floor(task.seconds) }),
    make: () => row(task),
  }));
  showRows(byId("cohort"), rows);
  setHidden("more-cohort", tasks.length <= most);
  byId("more-cohort").onclick = () => {
    most += 100;
    showCohort(attempt, tasks, more);
  };
}
