// Events, transfers and what is parked.

import { bytes, clock, count, el, millis, name, some } from "./dom.js";
import { replicatorsOf } from "./nodes.js";

// Whether a node has applied an event, by its record.
function has(node, version) {
  if (node.parked_at.includes(version)) return "parked";
  const applied = version <= node.version || node.beyond.some(([from, to]) => from <= version && version <= to);
  return applied ? "has" : "not yet";
}

const MARKS = { has: ["✓", "good"], "not yet": ["…", "busy"], parked: ["✗", "bad"] };

function mark(node, version) {
  const state = has(node, version);
  const [sign, level] = MARKS[state];
  const title = { has: "has it", "not yet": "has it not yet", parked: "cannot apply it" }[state];
  return el("span", { class: "mark", "data-level": level, title: `${node.node} ${title}` }, `${node.node} ${sign}`);
}

const pathOf = (event) => event.path ?? event.subject ?? "a name that is no text";

function event(data, replicators) {
  const kind = data.invalid ? "invalid" : data.type;
  const size = kind === "added" ? `, ${bytes(data.size ?? 0)}` : "";
  const from = data.node ? ` by ${data.node}` : "";
  return el(
    "article",
    { class: "event", "data-version": data.version },
    el("div", { class: "what" }, name(pathOf(data)), el("small", {}, `${count(data.version)}, ${clock(millis(data.time))}, ${kind}${from}${size}`)),
    el("div", { class: "marks" }, replicators.map((node) => mark(node, data.version))),
  );
}

export function eventList(events, nodes) {
  if (events.length === 0) return [el("p", { class: "none" }, "none yet")];
  const replicators = replicatorsOf(nodes);
  return events.map((data) => event(data, replicators));
}

export function transferList(transfers) {
  if (transfers.length === 0) return [el("p", { class: "none" }, "nothing large")];
  return transfers.map(({ path, bytes: got, size }) => {
    const percent = size > 0 ? Math.floor((got * 100) / size) : 0;
    const said = `${bytes(got)} of ${bytes(size)}, ${percent} %`;
    return el("article", { class: "transfer" }, name(path), el("small", {}, said), el("progress", { max: 100, value: percent, "aria-label": said }));
  });
}

export function parkedList(parked, total, retry) {
  const lines = parked.map((event) => {
    const { version, path, subject, reason, since, tries, permanent, next_try: next } = event;
    const again = permanent ? "not tried again by itself" : `next try ${clock(millis(next))}`;
    const button = el("button", { type: "button", class: "retry", "data-version": version }, "Try again");
    // A subject is no path; "Try all again" is for it.
    button.hidden = path === null;
    button.addEventListener("click", () => retry({ path }));
    return el(
      "article",
      { class: "parked" },
      el("div", { class: "what" }, name(path ?? subject), el("p", { class: "reason", "data-level": "bad" }, name(reason, "text"))),
      button,
      el("small", {}, `${count(version)}, since ${clock(millis(since))}, ${some(tries, "try", "tries")}, ${again}`),
    );
  });
  const more = total - parked.length;
  if (more > 0) lines.push(el("p", { class: "none" }, `and ${count(more)} more: replicator parked`));
  return lines;
}
