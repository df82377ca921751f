// The nodes, one line for each, what is wrong first.

import { bytes, count, el, name, some, span } from "./dom.js";

// Those that hold files, by name.
export const replicatorsOf = (nodes) => nodes.filter((node) => node.role === "replicator").sort((a, b) => (a.node < b.node ? -1 : 1));

const settled = (node) =>
  !node.down && ["ready", "degraded"].includes(node.state) && node.lag === 0 && node.beyond.length === 0 && node.pending === 0 && node.parked === 0;

// Whether the files of a node are those of the others, as far as it can be told at this moment.
function sameFiles(node, replicators) {
  if (node.diverged) return ["bad", `not those of ${node.diverged.from.join(", ")}`];
  const same = (other) => other.stream_created === node.stream_created && other.version === node.version;
  const others = replicators.filter((other) => other !== node && settled(other) && same(other));
  if (!settled(node) || others.length === 0) return ["", "not known now"];
  const equal = others.filter((other) => other.digest === node.digest).length;
  if (equal === others.length) return ["good", `same as ${some(equal, "other")}`];
  return equal * 2 >= others.length ? ["good", "same as most"] : ["bad", "differ from most"];
}

const level = (node) =>
  node.down || node.state === "degraded" || node.state === "stopping" ? "bad" : node.state === "ready" ? "good" : "busy";

function chip(node) {
  const state = node.down ? "down" : node.state;
  return el("span", { class: "chip", "data-level": level(node) }, `${node.role} ${state}`);
}

const fact = (label, value, mark) =>
  el("div", { class: "fact" }, el("dt", {}, label), el("dd", mark ? { "data-level": mark } : {}, value));

function facts(replicator, replicators, state) {
  const behindSince = state.oldest(replicator.version);
  const late = replicator.lag > 0 && behindSince ? `, ${span(Math.max(0, state.now - behindSince) / 1000)}` : "";
  const lag = replicator.lag > 0 ? some(replicator.lag, "event") + late : "nothing";
  const [mark, files] = sameFiles(replicator, replicators);
  const free = replicator.disk_free;
  return el(
    "dl",
    {},
    fact("version", count(replicator.version)),
    fact("behind", lag, replicator.lag > 0 ? "busy" : ""),
    fact("files", count(replicator.files)),
    fact("its files", files, mark),
    fact("disk free", free === null ? "not known" : bytes(free)),
  );
}

function line(node, processes, replicators, state) {
  const replicator = processes.find((process) => process.role === "replicator");
  const notes = [];
  for (const process of processes) {
    const { underway, last_error: error } = process;
    if (process.down) notes.push(el("p", { "data-level": "bad" }, `${process.role} last seen ${span(process.age)} ago`));
    if (underway) {
      const left = underway.left_s === null ? "" : `, ${span(underway.left_s)} left`;
      notes.push(el("p", {}, `${underway.what}: ${underway.percent} %${left} `, el("progress", { max: 100, value: underway.percent })));
    }
    if (error) notes.push(el("p", { class: "error", "data-level": level(process) === "bad" ? "bad" : null }, "last error: ", name(error, "text")));
  }
  return el(
    "article",
    { class: "node", "data-level": worst(processes) },
    el("div", { class: "head" }, name(node, "strong"), processes.map(chip)),
    replicator ? facts(replicator, replicators, state) : el("p", {}, "no replicator has been seen here"),
    notes,
  );
}

const worst = (processes) => ["bad", "busy", "good"].find((mark) => processes.some((process) => level(process) === mark));

export function nodeList(state) {
  const byName = Map.groupBy(state.nodes, (node) => node.node);
  const names = [...byName.keys()].sort((a, b) => (a < b ? -1 : 1));
  if (names.length === 0) return [el("p", { class: "none" }, state.away ? "not known while the broker is away" : "none has been seen")];
  const replicators = replicatorsOf(state.nodes);
  return names.map((node) => line(node, byName.get(node).sort((a, b) => (a.role < b.role ? -1 : 1)), replicators, state));
}
