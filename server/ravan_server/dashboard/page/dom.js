// Building the page. Every text becomes a text node, whoever wrote it: nothing is ever read as HTML.

export const byId = (id) => document.getElementById(id);

// element("td", {class: "number"}, "7"); a property that begins with "on" is a listener; null is left out.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined) continue;
    made.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return made;
}

// Rows of a list, each {key, seen, make}: what looks as before stays, so nobody loses focus or place.
export function showRows(parent, rows) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const after = rows.map(({ key, seen, make }) => {
    const known = before.get(String(key));
    if (known !== undefined && known.dataset.seen === String(seen)) return known;
    const made = make();
    made.dataset.key = String(key);
    made.dataset.seen = String(seen);
    return { made, known };
  });
  const focused = document.activeElement;
  const children = after.map((each) => each.made ?? each);
  if (children.length !== parent.children.length || children.some((each, at) => each !== parent.children[at])) {
    parent.replaceChildren(...children);
  }
  for (const { made, known } of after) {
    if (known?.contains(focused)) made.querySelector("button:not(:disabled)")?.focus();
  }
  if (focused !== document.body && parent.contains(focused)) focused.focus();
}

export function setText(id, text) {
  const found = byId(id);
  if (found.textContent !== text) found.textContent = text;
}

export function setHidden(id, hidden) {
  byId(id).hidden = hidden;
}
