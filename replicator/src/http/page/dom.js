// Elements, and numbers as people read them. Text only ever becomes text: names of files are made by others.

export function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  fill(element, attributes, children);
  return element;
}

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, attributes, children);
  return element;
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  // A string that is appended is a text node.
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
}

// A name of others: its direction of writing does not reach what stands beside it.
export const name = (text, kind = "path") => el("bdi", { class: kind, title: text }, text);

const shown = new WeakMap();

// Puts elements in place of those before, unless what they are made of is the same: who reads or clicks is not disturbed.
export function show(parent, facts, make) {
  const key = JSON.stringify(facts);
  if (shown.get(parent) === key) return;
  shown.set(parent, key);
  parent.replaceChildren(...[make()].flat());
}

export const count = (number) => new Intl.NumberFormat("en").format(number);

export const some = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${number.toFixed(unit === 0 || number >= 100 ? 0 : 1)} ${units[unit]}`;
}

export function span(seconds) {
  if (seconds < 0.0995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

export const millis = (stamp) => Date.parse(stamp);

export function clock(time) {
  const at = new Date(time);
  const today = at.toDateString() === new Date().toDateString();
  const day = today ? "" : `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} `;
  return day + at.toLocaleTimeString("en-GB");
}
