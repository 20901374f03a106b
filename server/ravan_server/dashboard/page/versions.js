// Versions of the heads: download one, or go back to it.

import { byId, element, setHidden, setText, showRows } from "./dom.js";
import { bytes, count, decimals, moment, percent, plural } from "./format.js";

const PAGE = 10;
let most = PAGE;

function origin(version) {
  if (version.copy_of !== null) return `version ${count(version.copy_of)}`;
  return version.version === 0 ? "the artifact" : plural(version.updates, "update");
}

// Asks whether to go back; true: yes. Leaving the dialog by Escape is no.
function confirmed(version) {
  const dialog = byId("rollback");
  setText(
    "rollback-words",
    `A new version is made with the heads of version ${count(version.version)}. The attempt that is running ends, and its updates are not used.`,
  );
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

function row(version, isLatest, { onDownload, onRollback }) {
  const number = (value, wide = false) => element("td", { class: wide ? "number wide" : "number" }, value);
  const gone = version.available ? null : "its heads are deleted by the retention rule";
  const button = (label, words, hidden, onclick) =>
    hidden ? null : element("button", { type: "button", "aria-label": `${words} version ${version.version}`, onclick }, label);
  return element(
    "tr",
    {},
    element("td", {}, count(version.version), isLatest ? element("span", { class: "quiet" }, " latest") : null),
    element("td", { class: "wide" }, moment(version.made_at)),
    element("td", { class: "wide" }, origin(version)),
    number(percent(version.scores?.accuracy)),
    number(decimals(version.scores?.loss), true),
    number(bytes(version.bytes), true),
    element(
      "td",
      { class: "actions" },
      version.available ? null : element("span", { class: "quiet", title: gone }, "deleted"),
      button("Download", "Download", !version.available, () => onDownload(version)),
      " ",
      button("Roll back", "Roll back to", !version.available || isLatest, async () => {
        if (await confirmed(version)) onRollback(version);
      }),
    ),
  );
}

export function showVersions(versions, actions) {
  const latest = versions[0]?.version;
  const rows = versions.slice(0, most).map((version) => ({
    key: version.version,
    seen: JSON.stringify({ ...version, latest: version.version === latest }),
    make: () => row(version, version.version === latest, actions),
  }));
  showRows(byId("versions"), rows);
  setHidden("more-versions", versions.length <= most);
  byId("more-versions").onclick = () => {
    most += 50;
    showVersions(versions, actions);
  };
}
