// Charts as SVG: no library, nothing from elsewhere.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const SPAN_S = 300, SPAN_MIN_S = 60, LEFT = 56, BOTTOM = 18, TOP = 6;

function svg(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Draw lines over up to the last five minutes: series [{name, values: [[time, value], ...]}], values
// null where there is none. Stacked ones are areas, the first at the bottom.
function chart(place, series, { now, stacked = false, format = scaled, height = 176 }) {
  const tops = stacked ? stack(series) : series.map(one => one.values);
  const highest = nice(Math.max(...tops.flat().map(point => point[1] ?? 0), 0));
  const oldest = Math.min(...series.flatMap(one => one.values.map(point => point[0])), now);
  const span = Math.min(Math.max(now - oldest, SPAN_MIN_S), SPAN_S);
  const width = place.clientWidth || 640;
  const x = time => LEFT + (width - LEFT) * (1 - (now - time) / span);
  const y = value => TOP + (height - BOTTOM - TOP) * (1 - value / highest);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  root.append(svg("title", {}, series.map(one => one.name).join(", ")));
  for (const part of [0, 0.5, 1]) {
    const at = y(highest * part);
    root.append(svg("line", { class: "grid", x1: LEFT, x2: width, y1: at, y2: at }));
    root.append(svg("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, format(highest * part)));
  }
  root.append(svg("text", { x: LEFT, y: height - 4 }, `${Math.round(span)} s ago`));
  root.append(svg("text", { x: width, y: height - 4, "text-anchor": "end" }, "now"));
  series.map((one, i) => i).reverse().forEach(i => {
    const points = tops[i].filter(point => point[1] !== null && now - point[0] <= span);
    if (!points.length) return;
    const way = points.map(([time, value]) => `${x(time).toFixed(1)},${y(value).toFixed(1)}`).join("L");
    const kind = stacked ? "area" : "line";
    const closed = stacked ? `L${x(points.at(-1)[0]).toFixed(1)},${y(0)}L${x(points[0][0]).toFixed(1)},${y(0)}Z` : "";
    root.append(svg("path", { class: `${kind} c${i % 8}`, d: `M${way}${closed}` }));
  });
  place.replaceChildren(root, legend(series));
}

function stack(series) {
  let below = null;
  return series.map(({ values }) => {
    below = values.map(([time, value], i) => [time, (value ?? 0) + (below ? below[i][1] : 0)]);
    return below;
  });
}

function legend(series) {
  const list = document.createElement("ul");
  list.className = "legend";
  series.forEach((one, i) => {
    const item = document.createElement("li"), mark = document.createElement("i");
    mark.className = `c${i % 8}`;
    item.append(mark, one.name);
    list.append(item);
  });
  return list;
}

// The next of 1, 2, 5, 10, 20 ... that is no smaller.
function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map(step => step * power).find(step => step >= value * 0.999);
}

function scaled(value) {
  for (const unit of ["", "k", "M", "G", "T"]) {
    if (value < 1000 || unit === "T") return `${value >= 100 || Number.isInteger(value) ? Math.round(value) : Number(value.toPrecision(2))}${unit && " " + unit}`;
    value /= 1000;
  }
}

function duration(seconds) {
  if (seconds === null) return "-";
  return seconds < 1 ? `${Number((seconds * 1000).toPrecision(3))} ms` : `${Number(seconds.toPrecision(3))} s`;
}
