// Charts: uPlot with the page's colours, one way to show time, and words for those
// who don't see them.
import uPlot from "uplot";
import { h } from "./dom.js";
import { clock } from "./format.js";

/** @typedef {{label: string, color: string, fill?: boolean, dash?: number[]}} Line color is a variable of style.css */

/** A variable's colour as it is now, light or dark. @param {string} name */
function colour(name) {
  const probe = h("span", { hidden: true });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** @type {Set<() => void>} */
const charts = new Set();

/** Draws all charts anew, after the colours have changed. */
export const recolour = () => charts.forEach((draw) => draw());

/** The distances that an axis may have. @param {number} base */
const steps = (base) => [0, 1, 2, 3, 4].flatMap((power) => [1, 2, 5, 10, 20, 50, 100, 200, 500].map((n) => n * base ** power));

/** Values without a neighbour, which no line shows. @param {uPlot} u @param {number} line */
function alone(u, line) {
  const list = u.data[line];
  return [...list.keys()].filter((i) => list[i] != null && list[i - 1] == null && list[i + 1] == null);
}

/**
 * A chart of lines over time.
 * @param {string} title
 * @param {Line[]} lines
 * @param {(value: number) => string} unit
 * @param {number} [base] of what the axis goes by: 1000 for counts without halves, 1024 for bytes
 * @returns {{element: HTMLElement, show(data: (number | null)[][], least?: number): void, stop(): void}}
 */
export function chart(title, lines, unit, base) {
  const place = h("div", { class: "plot", role: "img", "aria-label": title });
  const values = lines.map(() => h("b"));
  const legend = h("div", { class: "legend" }, lines.map((l, i) => h("span", null, h("i", { class: `line ${l.color.slice(2)}`, "aria-hidden": "true" }), l.label, " ", values[i])));
  const element = h("figure", { class: "chart card" }, h("figcaption", null, h("h3", null, title), legend), place);
  /** @type {uPlot | null} */
  let plot = null;
  /** @type {any} */
  let data = [[], ...lines.map(() => [])];
  let least = 0; // seconds that are shown, with or without data

  /** @param {number | null} i */
  function say(i) {
    lines.forEach((_, k) => {
      const value = i == null ? data[k + 1].findLast((/** @type {any} */ v) => v != null) : data[k + 1][i];
      values[k].textContent = value == null ? "–" : unit(value);
    });
  }
  function draw() {
    plot?.destroy();
    const ink = colour("--muted"), grid = colour("--line");
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 }, font: "11px system-ui, sans-serif" };
    plot = new uPlot({
      width: Math.max(place.clientWidth, 200), height: 170, padding: [8, 16, 0, 0], legend: { show: false },
      cursor: { sync: { key: "time" }, y: false, drag: { x: false, y: false } },
      scales: { x: { range: (_, first, last) => [Math.min(first, last - least), last] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
      axes: [
        { ...axis, size: 30, space: 70, values: (_, list) => list.map((t) => clock(new Date(t * 1000)).slice(0, 5)) },
        { ...axis, size: 64, space: 34, incrs: base ? steps(base) : undefined, values: (_, list) => list.map((v) => v ? unit(v) : "0") },
      ],
      series: [{}, ...lines.map((l) => ({ stroke: colour(l.color), width: 1.5, dash: l.dash, fill: l.fill ? colour(l.color).replace(/rgb\((.*)\)/, "rgba($1, 0.13)") : undefined, points: { show: true, size: 4, filter: alone }, spanGaps: false }))],
      hooks: { setCursor: [(u) => say(u.cursor.idx ?? null)] },
    }, data, place);
  }
  const sized = new ResizeObserver(() => { if (plot && place.clientWidth) plot.setSize({ width: place.clientWidth, height: 170 }); });
  sized.observe(place);
  charts.add(draw);
  return {
    element,
    show(next, span = 0) {
      data = next;
      least = span;
      if (plot) plot.setData(data);
      else draw();
      say(plot?.cursor.idx ?? null);
      place.setAttribute("aria-label", `${title}: ` + lines.map((l, k) => `${l.label} ${values[k].textContent}`).join(", "));
    },
    stop() {
      sized.disconnect();
      charts.delete(draw);
      plot?.destroy();
    },
  };
}
