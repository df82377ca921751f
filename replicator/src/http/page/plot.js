// What the last hour was like, as two small plots.

import { bytes, count, el, span, svg } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 70;
const HOUR = 3_600_000;

const x = (sample, now) => WIDTH * (1 - (now - Date.parse(sample.at)) / HOUR);

function frame(title, most, label, ...marks) {
  return el(
    "figure",
    {},
    el("figcaption", {}, title, el("small", {}, most)),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${label}` },
      svg("path", { class: "grid", d: `M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }), ...marks),
    el("div", { class: "axis" }, el("small", {}, "1 h ago"), el("small", {}, "now")),
  );
}

// From 1 ms to the longest, each factor of ten as high as the next: what is usual stays to be seen beside what is not.
function latency(samples, now) {
  const with_files = samples.filter((sample) => sample.latency !== null);
  if (with_files.length === 0) return frame("Time from change to here", "no file came", "no file came");
  const longest = Math.max(...with_files.map((sample) => sample.latency_max));
  const top = Math.log10(Math.max(longest, 0.01) * 1000);
  const y = (seconds) => HEIGHT - 3 - (HEIGHT - 8) * Math.min(1, Math.max(0, Math.log10(Math.max(seconds, 0.001) * 1000) / top));
  const ranges = with_files.map((sample) => `M${x(sample, now).toFixed(1)} ${y(sample.latency).toFixed(1)}V${y(sample.latency_max).toFixed(1)}`);
  const means = with_files.map((sample) => `M${(x(sample, now) - 1).toFixed(1)} ${y(sample.latency).toFixed(1)}h2`);
  const files = with_files.reduce((sum, sample) => sum + sample.files, 0);
  const mean = with_files.reduce((sum, sample) => sum + sample.latency * sample.files, 0) / files;
  const said = `mean ${span(mean)}, longest ${span(longest)}`;
  return frame("Time from change to here", said, said, svg("path", { class: "range", d: ranges.join("") }), svg("path", { class: "mean", d: means.join("") }));
}

function throughput(samples, now) {
  const most = Math.max(...samples.map((sample) => sample.bytes), 0);
  const all = samples.reduce((sum, sample) => sum + sample.bytes, 0);
  const files = samples.reduce((sum, sample) => sum + sample.files, 0);
  const y = (number) => HEIGHT - (HEIGHT - 5) * (most > 0 ? number / most : 0);
  const bars = samples.filter((sample) => sample.bytes > 0).map((sample) => `M${x(sample, now).toFixed(1)} ${HEIGHT}V${y(sample.bytes).toFixed(1)}`);
  const said = `${bytes(all)} in ${count(files)} files, at most ${bytes(most / 10)}/s`;
  return frame("Received", said, said, svg("path", { class: "bars", d: bars.join("") }));
}

export const plots = (samples, now) => [latency(samples, now), throughput(samples, now)];
