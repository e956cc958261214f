// The charts of a route, a service or of all: the same everywhere.
import { get, poll } from "../api.js";
import { chart } from "../chart.js";
import { h, set } from "../dom.js";
import { bytes, count, rate, took } from "../format.js";

/**
 * Requests, errors, latency and bandwidth over time, with a switch for how long.
 * @param {import("../main.js").Context} c
 * @param {"total" | "route" | "service"} by
 * @param {string} [name]
 * @returns {{element: HTMLElement, spans: HTMLElement}}
 */
export function lines(c, by, name) {
  const requests = chart("Requests", [{ label: "2xx, 3xx", color: "--blue", fill: true }, { label: "4xx", color: "--orange", dash: [6, 3] }, { label: "5xx, none", color: "--red" }], rate);
  const latency = chart("Latency", [{ label: "p50", color: "--blue" }, { label: "p90", color: "--violet", dash: [6, 3] }, { label: "p99", color: "--red" }], took);
  const band = chart("Bandwidth", [{ label: "to clients", color: "--blue", fill: true }, { label: "from clients", color: "--orange", dash: [6, 3] }], (n) => `${bytes(n)}/s`, 1024);
  const busy = by === "total" ? chart("In flight", [{ label: "requests", color: "--green", fill: true }], count, 1000) : null;
  const all = [requests, latency, band, ...(busy ? [busy] : [])];
  const said = h("div", { role: "status" });
  const charts = h("div", { class: "charts", hidden: true }, all.map((x) => x.element));
  const element = h("div", { class: "listing" }, said, charts);
  all.forEach((x) => c.leave(x.stop));

  let span = "15m";
  const buttons = [["15m", "15 min"], ["24h", "24 h"]].map(([value, text]) => h("button", {
    type: "button", class: "small", "aria-pressed": String(value === span), "data-span": value, onclick: () => {
      span = value;
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.span === span)));
      polling.now();
    },
  }, text));
  const polling = poll(5000, async (signal) => {
    const t = await get("/api/history", { by, name, span }, signal);
    charts.hidden = !t.times.length;
    if (t.times.length) draw(t);
    set(said, t.times.length ? null : h("p", { class: "empty" }, span === "24h" ? "The first minute isn't over yet." : "The first five seconds aren't over yet."));
  }, (error) => set(said, h("p", { class: "error" }, error.message)));
  c.leave(polling.stop);

  /** @param {any} t */
  function draw(t) {
    const all = span === "24h" ? 86400 : 900;
    /** @param {(i: number) => number | null} f */
    const each = (f) => t.times.map((_, i) => f(i));
    const per = (/** @type {(number | null)[]} */ list) => each((i) => list[i] == null ? null : list[i] / (t.seconds[i] || t.step));
    requests.show([t.times, each((i) => t.requests[i] == null ? null : (t.requests[i] - t.errors_4xx[i] - t.errors_5xx[i]) / t.seconds[i]), per(t.errors_4xx), per(t.errors_5xx)], all);
    latency.show([t.times, t.p50, t.p90, t.p99], all);
    band.show([t.times, per(t.bytes_out), per(t.bytes_in)], all);
    busy?.show([t.times, t.in_flight], all);
  }
  return { element, spans: h("div", { class: "group", role: "group", "aria-label": "How long" }, buttons) };
}

/** How long requests took, as bars. @param {number[]} buckets bounds in seconds @param {number[]} counts */
export function histogram(buckets, counts) {
  const most = Math.max(...counts, 1);
  const first = counts.findIndex((n) => n > 0), last = counts.findLastIndex((n) => n > 0);
  if (first < 0) return h("p", { class: "empty" }, "No requests yet.");
  return h("div", { class: "bars" }, counts.slice(first, last + 1).map((n, k) => {
    const i = first + k;
    const bar = h("div", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${100 * n / most}%`;
    return h("div", null, h("span", null, i < buckets.length ? `≤ ${took(buckets[i])}` : `> ${took(buckets[buckets.length - 1])}`), h("div", null, bar), h("span", null, count(n)));
  }));
}

/** The figures of a route or service in a row. @param {any} row @param {number} window */
export function tiles(row, window) {
  const r = row.recent, a = row.all;
  return [
    tile("Requests", rate(r.rate), `${count(a.requests)} in all`),
    tile("Errors (5xx, none)", r.requests ? percent(r.errors, r.requests) : "–", `${count(a.errors)} in all`, r.errors / r.requests > 0.01 ? "bad" : ""),
    tile("Latency p50", took(r.p50), `${took(a.p50)} in all`),
    tile("Latency p99", took(r.p99), `p90 ${took(r.p90)}`),
    tile("To clients", `${bytes(r.bytes_out / window || 0)}/s`, `${bytes(a.bytes_out)} in all`),
    tile("From clients", `${bytes(r.bytes_in / window || 0)}/s`, `${bytes(a.bytes_in)} in all`),
  ];
}

const percent = (/** @type {number} */ part, /** @type {number} */ whole) => part === 0 ? "0 %" : `${(100 * part / whole).toFixed(part / whole < 0.1 ? 2 : 1)} %`;

/** A figure. @param {string} what @param {any} figure @param {any} [more] @param {string} [kind] */
export const tile = (what, figure, more, kind) => h("div", { class: `tile ${kind ?? ""}`.trim() }, h("span", { class: "what" }, what), h("span", { class: "figure" }, figure), h("span", { class: "more" }, more ?? ""));

/** By class of status. @param {number[]} classes */
export const classes = (classes) => classes.map((n, i) => [i, n]).filter(([, n]) => n > 0).map(([i, n]) => `${i === 0 ? "no response" : `${i}xx`} ${count(n)}`).join(" · ") || "–";
