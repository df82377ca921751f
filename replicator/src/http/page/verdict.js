// Is every file on every node, and if not, what and since when? A plain function of what is known.

import { bytes, clock, count, some } from "./dom.js";
import { replicatorsOf } from "./nodes.js";

// What is wrong or under way, worst first. `lacks`: a file is not where it should be.
function findings(state) {
  const { nodes, now, oldest } = state;
  const found = [];
  const add = (level, lacks, text, since, why) => found.push({ level, lacks, text, since, why });
  for (const node of nodes.filter((node) => node.down)) {
    const what = node.role === "watcher" ? "changes there are not published" : "what is new does not get there";
    add("bad", node.role === "replicator", `The ${node.role} of ${node.node} is down: ${what}`, now - node.age * 1000);
  }
  for (const node of nodes.filter((node) => !node.down)) {
    const { node: name, role, diverged, parked, lag, pending, state: doing, last_error: error } = node;
    if (diverged) {
      const from = diverged.from.join(", ");
      add("bad", true, `${name} has not the same files as ${from}`, Date.parse(diverged.since));
    }
    if (parked > 0 && role === "replicator") {
      add("bad", true, `${some(parked, "event")} cannot be applied on ${name}`, state.parkedSince(name), error);
    }
    if (doing === "stopping") add("bad", role === "replicator", `The ${role} of ${name} was stopped`, now - node.age * 1000);
    if (doing === "degraded" && !diverged && parked === 0) add("bad", false, `The ${role} of ${name} needs somebody to look`, null, error);
    if (doing === "starting") add("busy", role === "replicator", `The ${role} of ${name} is starting`, Date.parse(node.started));
    if (role === "replicator" && lag > 0) {
      add("busy", true, `${name} is ${some(lag, "event")} behind`, oldest(node.version));
    }
    if (role === "watcher" && pending > 0) add("busy", true, `${name} is publishing ${some(pending, "file")}`);
  }
  const order = ["bad", "busy"];
  return found.sort((a, b) => order.indexOf(a.level) - order.indexOf(b.level) || b.lacks - a.lacks);
}

const since = (finding) => (finding.since ? `since ${clock(finding.since)}` : "");

// A level, a sentence, and lines of what is behind it.
export function verdict(state) {
  if (state.wantsToken) return { level: "unknown", text: "A token is needed to see how things are", lines: [] };
  if (state.silentSince) {
    const line = { text: "What is below was so before", since: `since ${clock(state.silentSince)}` };
    return { level: "bad", text: "This node does not answer", lines: [line] };
  }
  if (state.away) {
    const line = { text: "Nothing new gets anywhere until it is back; what happens meanwhile is sent then", since: "" };
    if (state.awaySince) line.since = `since ${clock(state.awaySince)}`;
    return { level: "bad", text: "The broker is away", lines: [line] };
  }
  const nodes = replicatorsOf(state.nodes);
  if (!state.known || nodes.length === 0) return { level: "unknown", text: "Looking …", lines: [] };
  const found = findings(state);
  const lines = found.map((finding) => ({ text: finding.text, since: since(finding), why: finding.why }));
  const here = nodes.reduce((most, node) => (node.files > most.files ? node : most));
  const all = `${some(here.files, "file")}, ${bytes(here.bytes)}`;
  const only = nodes.length === 1;
  if (found.length === 0) {
    const text = only ? `Every file is on ${nodes[0].node}, the only node` : "Every file is on every node";
    const where = only ? "" : ` on each of ${count(nodes.length)} nodes`;
    return { level: "good", text, lines: [{ text: `${all}${where}, at version ${count(state.head)} of the log`, since: "" }] };
  }
  const level = found[0].level;
  const lacks = found.some((finding) => finding.lacks);
  if (level === "busy" && lacks) return { level, text: "Files are on their way", lines };
  const text = lacks ? "Not every file is on every node" : "Every file is on every node, but somebody should look";
  return { level, text, lines };
}
