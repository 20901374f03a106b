// The loop: asks every two seconds while somebody looks, for no more than what can have changed.

import { showCohort } from "./cohort.js";
import { byId, setHidden, setText } from "./dom.js";
import { askForToken, setUpLogin } from "./login.js";
import { showNow } from "./now.js";
import { showQuality } from "./quality.js";
import { showRounds } from "./rounds.js";
import { download, forgetAnswers, get, getIfChanged, post } from "./server.js";
import { showVersions } from "./versions.js";

const POLL_MS = 2000;
const MOST_WAIT_MS = 30_000;
const VERSIONS_MS = 10_000;
const KEPT = 400;

let status = null;
let versions = [];
let versionsAt = -Infinity;
const attempts = new Map(); // by entry
let chosen = null; // an entry; null: the latest
let tasks = { entry: null, list: [], more: false, final: false };
let timer = null;
let asking = false;
let askAgain = false;
let failures = 0;

const isOver = (attempt) => attempt.state === "merged" || attempt.state === "failed";

async function readAttempts() {
  const over = [...attempts.values()].filter(isOver).map((attempt) => attempt.entry);
  // Of those that are over nothing changes any more: only what comes behind is asked for.
  let after = over.length ? Math.max(...over) : null;
  do {
    const page = await get(after === null ? "v1/attempts" : `v1/attempts?after=${after}`);
    for (const attempt of page.attempts) attempts.set(attempt.entry, attempt);
    after = page.after;
  } while (after !== null);
  for (const entry of [...attempts.keys()].sort((a, b) => a - b).slice(0, -KEPT)) attempts.delete(entry);
}

async function readTasks(attempt) {
  if (tasks.entry === attempt.entry && tasks.final) return;
  const page = await getIfChanged(`v1/attempts/${attempt.entry}/tasks`);
  const before = tasks.entry === attempt.entry ? tasks : { list: [], more: false };
  const { list, more } = page === null ? before : { list: page.tasks, more: page.after !== null };
  tasks = { entry: attempt.entry, list, more, final: isOver(attempt) };
}

async function readAll() {
  const before = status;
  status = await get("v1/status");
  if (before !== null && (before.artifact !== status.artifact || before.version > status.version)) {
    location.reload(); // another run: nothing of what is shown is its
  }
  const now = performance.now();
  if (before?.version !== status.version || now >= versionsAt + VERSIONS_MS) {
    const found = await getIfChanged("v1/versions");
    if (found !== null) versions = found.versions;
    versionsAt = now;
  }
  await readAttempts();
  await readTasks(theChosen());
}

const sorted = () => [...attempts.values()].sort((a, b) => a.entry - b.entry);
const theChosen = () => attempts.get(chosen) ?? sorted().at(-1);

function showAll() {
  showNow(status, versions);
  showQuality(versions);
  showRounds(sorted(), theChosen().entry, choose);
  showCohort(theChosen(), tasks.list, tasks.more);
  showVersions(versions, { onDownload: save, onRollback: rollBack });
}

async function choose(entry) {
  chosen = entry === sorted().at(-1).entry ? null : entry;
  await poll();
  byId("cohort-title").focus();
  byId("cohort-title").scrollIntoView({ block: "nearest" });
}

async function act(action) {
  try {
    await action();
    say("");
  } catch (error) {
    if (error.needsToken) askForToken(error);
    else say(error.message);
  }
}

const save = (version) => act(() => download(`v1/blobs/${version.heads}`, `heads-version-${version.version}.safetensors`));

async function rollBack(version) {
  await act(() => post(`v1/versions/${version.version}/rollback`));
  await poll();
}

function say(text) {
  setText("notice", text);
  setHidden("notice", text === "");
}

async function poll() {
  clearTimeout(timer);
  if (asking) {
    askAgain = true;
    return;
  }
  asking = true;
  let wait = POLL_MS;
  try {
    await readAll();
    if (failures) say("");
    failures = 0;
    showAll();
    setText("live", "live");
  } catch (error) {
    if (error.needsToken) {
      askForToken(error);
      wait = null;
    } else if (error.reason === undefined) {
      throw error;
    } else {
      failures += 1;
      wait = Math.min(MOST_WAIT_MS, Math.max(POLL_MS * 2 ** (failures - 1), 1000 * (error.retrySeconds ?? 0)));
      byId("state").dataset.state = "unreachable";
      setText("state", error.reason === "unreachable" ? "unreachable" : "refused");
      setText("live", `trying again in ${Math.round(wait / 1000)} s`);
      say(error.message);
      forgetAnswers();
      versionsAt = -Infinity;
    }
  } finally {
    asking = false;
    if (askAgain) wait = 0;
    askAgain = false;
    if (wait !== null && !document.hidden) timer = setTimeout(poll, wait);
  }
}

setUpLogin(() => {
  say("");
  poll();
});
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) setText("live", "paused");
  else poll();
});
poll();
