// What is known, how it is asked for, and where it is shown.

import { follow, get, keepToken, post } from "./api.js";
import { el, millis, show, span, some } from "./dom.js";
import { eventList, parkedList, transferList } from "./lists.js";
import { nodeList, replicatorsOf } from "./nodes.js";
import { plots } from "./plot.js";
import { verdict } from "./verdict.js";

const EVENTS = 30;
const EVERY = 2000;
const SOON = 250;
const AGAIN = 2000;

const state = {
  known: false,
  nodes: [],
  head: 0,
  now: Date.now(),
  events: new Map(),
  times: new Map(),
  activity: null,
  silentSince: null,
  away: false,
  awaySince: null,
  wantsToken: false,
  following: false,
  // When the oldest event came that a node at this version lacks.
  oldest: (version) => state.times.get(version + 1) ?? null,
  parkedSince: (node) => {
    const here = state.activity?.parked ?? [];
    return node === state.here && here.length > 0 ? Math.min(...here.map((parked) => millis(parked.since))) : null;
  },
};

const at = (selector) => document.querySelector(selector);
let scope = "read";
let afterToken = null;
let answered = Date.now();

function wantToken(wanted, then) {
  scope = wanted;
  afterToken = then;
  at("#ask").hidden = false;
  at("#ask label").textContent = wanted === "admin" ? "A token with the scope admin is needed" : "A token with the scope read is needed";
  at("#token").focus();
}

at("#ask form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(scope, at("#token").value.trim());
  at("#token").value = "";
  at("#ask").hidden = true;
  state.wantsToken = false;
  afterToken?.();
});

async function retry(body) {
  const said = at("#retried");
  said.textContent = "asking …";
  try {
    const { retried } = await post("/api/v1/parked/retry", body);
    said.textContent = `${some(retried, "event is", "events are")} tried again`;
    soon();
  } catch (error) {
    said.textContent = error.message;
    if (error.wantsToken) wantToken("admin", () => retry(body));
  }
}

at("#retry-all").addEventListener("click", () => retry({ all: true }));

// Asks for one thing; what fails says what that means.
async function part(path, take, failed) {
  try {
    take(await get(path));
    return true;
  } catch (error) {
    if (error.wantsToken) state.wantsToken = true;
    failed?.(error);
    return error.status !== undefined;
  }
}

function takeNodes({ head, now, nodes }) {
  Object.assign(state, { known: true, away: false, head, now: millis(now), nodes });
}

// Of each node that is behind: when the oldest event came that it lacks.
async function findOldest() {
  const wanted = new Set(replicatorsOf(state.nodes).filter((node) => node.lag > 0).map((node) => node.version + 1));
  for (const version of state.times.keys()) if (!wanted.has(version)) state.times.delete(version);
  for (const version of wanted) {
    if (state.times.has(version)) continue;
    await part(`/api/v1/log?from=${version}&limit=1`, ({ events }) => events[0] && state.times.set(version, millis(events[0].time)));
  }
}

async function look() {
  if (state.wantsToken) return;
  const parts = [
    part("/api/v1/activity", (activity) => {
      state.activity = activity;
    }),
    part("/api/v1/nodes", takeNodes, (error) => {
      if (error.status === 503) state.away = true;
    }),
    part("/api/v1/status", (record) => {
      state.here = record.node;
    }),
  ];
  const alive = await Promise.all(parts);
  const since = state.activity?.away_since;
  state.awaySince = since ? millis(since) : null;
  if (since) state.away = true;
  if (alive.some(Boolean)) [answered, state.silentSince] = [Date.now(), null];
  else state.silentSince = answered;
  if (state.wantsToken && at("#ask").hidden) wantToken("read", begin);
  if (!state.away) await findOldest();
  draw();
}

function take({ open, reset, data }) {
  if (open) state.following = true;
  else if (reset) state.events.clear();
  else {
    state.events.set(data.version, data);
    for (const version of state.events.keys()) {
      if (state.events.size <= EVENTS) break;
      state.events.delete(version);
    }
    soon();
  }
  draw();
}

async function followLog() {
  for (;;) {
    if (state.known && !state.wantsToken) {
      const seen = Math.max(0, ...state.events.keys());
      const from = seen > 0 ? seen + 1 : Math.max(1, state.head - EVENTS + 1);
      // It ends when the process does, or the broker: `look` says so.
      await follow(from, take).catch(() => {});
      state.following = false;
      draw();
    }
    await new Promise((done) => setTimeout(done, AGAIN));
  }
}

function draw() {
  const { level, text, lines } = verdict(state);
  at("#verdict").dataset.level = level;
  if (at("#verdict h2").textContent !== text) at("#verdict h2").textContent = text;
  show(at("#verdict ul"), lines, () => lines.map(lineOf));
  document.title = `${level === "good" ? "✓" : level === "busy" ? "…" : "!"} mediamirror ${state.here ?? ""}`;
  at("#here").textContent = state.here ? `seen from ${state.here}` : "";
  const live = state.following && !state.silentSince && !state.away;
  at("#live").textContent = live ? "live" : state.silentSince ? `no answer for ${span((Date.now() - state.silentSince) / 1000)}` : "not live";
  at("#live").dataset.level = live ? "good" : "bad";
  const stale = Boolean(state.away || state.silentSince);
  document.body.classList.toggle("stale", stale);
  for (const section of document.querySelectorAll("main > section:not(#verdict, #ask, #parked)")) section.hidden = state.wantsToken && !state.known;
  const ages = state.nodes.map(({ age, ...node }) => (node.down ? { ...node, age: Math.floor(age) } : node));
  const late = state.nodes.some((node) => node.lag > 0) ? Math.floor(state.now / 1000) : 0;
  show(at("#nodes .list"), [ages, [...state.times], late, state.away], () => nodeList(state));
  const events = [...state.events.values()].reverse();
  const marks = state.nodes.map(({ node, role, version, beyond, parked_at }) => ({ node, role, version, beyond, parked_at }));
  show(at("#events .list"), [events.map((event) => event.version), marks], () => eventList(events, state.nodes));
  if (!state.activity) return;
  const { transfers, parked, parked_count: total, samples, now } = state.activity;
  show(at("#transfers .list"), transfers, () => transferList(transfers));
  at("#parked").hidden = total === 0;
  show(at("#parked .list"), [parked, total], () => parkedList(parked, total, retry));
  show(at("#hour .plots"), [samples, Math.floor(millis(now) / 30_000)], () => plots(samples, millis(now)));
}

function lineOf({ text, since, why }) {
  return el("li", {}, text, since ? [" ", el("small", {}, since)] : [], why ? [el("br"), el("small", {}, why)] : []);
}

let timer = null;
let looking = false;

// One look at a time; the next follows after a while, or soon when something has happened.
async function begin() {
  clearTimeout(timer);
  if (looking) return;
  looking = true;
  if (!document.hidden) await look().catch((error) => console.error(error));
  looking = false;
  timer = setTimeout(begin, EVERY);
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(begin, SOON);
}

document.addEventListener("visibilitychange", soon);
begin();
followLog();
