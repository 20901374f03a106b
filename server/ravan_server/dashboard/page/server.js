// Asking the server. The token lives in this tab's session storage, and goes nowhere but to this server.

const TOKEN = "ravan.token";
const ANSWER_MS = 30_000;

// A refusal of the server, with its reason; or "unreachable".
export class Refused extends Error {
  constructor(reason, detail, retrySeconds = null) {
    super(detail);
    this.reason = reason;
    this.retrySeconds = retrySeconds;
  }

  get needsToken() {
    return this.reason === "login_needed" || this.reason === "bad_token";
  }
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);
export const forgetToken = () => sessionStorage.removeItem(TOKEN);

// Paths have no slash in front: a proxy may have put the page under a path of its own.
async function ask(path, { method = "GET", tag = null } = {}) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token !== null) headers.authorization = `Bearer ${token}`;
  if (tag !== null) headers["if-none-match"] = tag;
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.timeout(ANSWER_MS),
    });
  } catch {
    throw new Refused("unreachable", "the server cannot be reached");
  }
  if (answer.ok || answer.status === 304) return answer;
  let problem = {};
  try {
    problem = await answer.json();
  } catch {
    // not ours: a proxy's, say
  }
  const detail = typeof problem.detail === "string" ? problem.detail : `the server answers ${answer.status}`;
  throw new Refused(problem.reason ?? "unreachable", detail, problem.retry_after_seconds ?? null);
}

async function json(answer) {
  try {
    return await answer.json();
  } catch {
    throw new Refused("unreachable", "the answer broke off");
  }
}

export const get = async (path) => json(await ask(path));
export const post = async (path) => json(await ask(path, { method: "POST" }));

// What is asked for again and again: null while nothing has changed.
const tags = new Map();
export async function getIfChanged(path) {
  const answer = await ask(path, { tag: tags.get(path) ?? null });
  if (answer.status === 304) return null;
  const found = await json(answer);
  tags.set(path, answer.headers.get("etag"));
  return found;
}

export function forgetAnswers() {
  tags.clear();
}

// Saves a blob under a name. A link alone could not show the token.
export async function download(path, name) {
  const answer = await ask(path);
  let content;
  try {
    content = await answer.blob();
  } catch {
    throw new Refused("unreachable", "the download broke off");
  }
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
