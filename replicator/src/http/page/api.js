// The API of this node, and the tokens for it, which are kept for this tab only.

const KEYS = { read: "mediamirror-token", admin: "mediamirror-admin-token" };
const PATIENCE = 12_000;
// The live log says something every 15 s.
const SILENCE = 40_000;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
  get wantsToken() {
    return this.status === 401 || this.status === 403;
  }
}

export function keepToken(scope, token) {
  sessionStorage.setItem(KEYS[scope], token);
}

async function ask(path, scope, options, signal) {
  const token = sessionStorage.getItem(KEYS[scope]) ?? sessionStorage.getItem(KEYS.read);
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${encodeURI(token)}`;
  const answer = await fetch(path, { ...options, headers, signal, cache: "no-store" });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, problem.detail ?? `HTTP ${answer.status}`);
}

export async function get(path) {
  return (await ask(path, "read", {}, AbortSignal.timeout(PATIENCE))).json();
}

export async function post(path, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await ask(path, "admin", options, AbortSignal.timeout(PATIENCE))).json();
}

// Follows the log from a version on until the stream ends or is silent. `EventSource` could not send a token.
export async function follow(from, tell) {
  const stop = new AbortController();
  let silent = setTimeout(() => stop.abort(), SILENCE);
  try {
    const answer = await ask(`/api/v1/events?from=${from}`, "read", {}, stop.signal);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    tell({ open: true });
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(silent);
      silent = setTimeout(() => stop.abort(), SILENCE);
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        const fields = Object.fromEntries(frame.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
        if (fields.data) tell({ reset: fields.event === "reset", data: JSON.parse(fields.data) });
      }
    }
  } finally {
    clearTimeout(silent);
    stop.abort();
  }
}
