import { ApiError, get, poll } from "../api.js";
import { badge, card, empty, h, link, put, set, terms, to } from "../dom.js";
import { bytes, count, share, took } from "../format.js";
import { chart } from "../chart.js";
import { plain } from "../table.js";
import { tile } from "./lines.js";

const spans = [["1h", "an hour"], ["24h", "a day"], ["7d", "7 days"], ["30d", "30 days"]];
const named = (/** @type {string} */ name) => name || "(nobody known)";

/** Who uses what, and which consumers there are. @param {import("../main.js").Context} c */
export function consumers(c) {
  const name = c.rest.length ? c.rest.join("/") : null;
  if (name !== null) return one(c, name === named("") ? "" : name);
  const span = choice(c.query.get("since") ?? "24h", () => usage.now());
  const used = h("div"), csv = download();
  const usage = poll(10_000, async (signal) => {
    const query = { by: "consumer", since: span.value };
    csv.set({ ...query, by: "consumer,route" });
    const u = await get("/api/usage", { ...query, top: 200 }, signal);
    set(used, u.note ? h("p", null, badge("warn", u.note)) : null, u.rows.length ? plain("Usage by consumer", [
      { title: "Consumer", wide: true, cell: (r) => link(named(r.consumer), "consumers", named(r.consumer)) }, ...columns], u.rows) : empty("No requests in this time."),
    u.rows.length === 200 ? h("p", { class: "muted" }, "The 200 with the most requests; the export has all.") : null);
  }, (error) => set(used, unusable(error)));
  const known = h("div");
  pages(c, known);
  c.leave(usage.stop);
  put(c.main, h("div", { class: "top" }, h("h1", null, "Consumers")),
    card("Usage", [span, csv.element], used), card("Known consumers", null, known));
}

/** @param {import("../main.js").Context} c @param {string} name */
function one(c, name) {
  const span = choice("24h", () => usage.now());
  const row = h("div", { class: "tiles" }), routes = h("div"), about = h("div"), csv = download(), said = h("div", { role: "status" });
  const requests = chart("Requests", [{ label: "requests", color: "--blue", fill: true }, { label: "errors", color: "--red" }, { label: "rate limited", color: "--orange", dash: [6, 3] }], count, 1000);
  c.leave(requests.stop);
  requests.element.hidden = true;
  const usage = poll(10_000, async (signal) => {
    const step = { "1h": "minute", "24h": "hour", "7d": "hour" }[span.value] ?? "day";
    const query = { since: span.value };
    const at = (/** @type {string} */ by) => `/api/usage?consumer=${encodeURIComponent(name)}&by=${by}`;
    csv.set({ ...query, by: `consumer,route,${step === "minute" ? "hour" : step}`, consumer: name });
    const [total, byRoute, over] = await Promise.all([get(at("consumer"), query, signal), get(at("route,status"), { ...query, limit: 500 }, signal), get(at(step), { ...query, limit: 2000 }, signal)]);
    const t = total.rows[0];
    set(said, total.note ? h("p", null, badge("warn", total.note)) : null);
    if (!t) {
      set(row);
      requests.element.hidden = true;
      return set(routes, empty("No requests in this time."));
    }
    set(row, tile("Requests", count(t.requests), `${share(t.errors, t.requests)} errors`), tile("Rate limited", count(t.rate_limited), share(t.rate_limited, t.requests)), tile("Cache hits", count(t.cache_hits), share(t.cache_hits, t.requests)),
      tile("Latency p50", took(t.latency?.p50), `p99 ${took(t.latency?.p99)}`), tile("To clients", bytes(t.bytes_out), `${bytes(t.bytes_in)} from clients`), tile("Charged", units(t.charged), "units"));
    set(routes, plain("Usage by route", [{ title: "Route", wide: true, cell: (r) => link(r.route || "(no route)", "routes", r.route || "(no route)") }, { title: "Status", cell: (r) => r.status }, ...columns], byRoute.rows));
    requests.element.hidden = over.rows.length < 2;
    if (over.rows.length > 1) requests.show([over.rows.map((/** @type {any} */ r) => Date.parse(r.time) / 1000), ...["requests", "errors", "rate_limited"].map((k) => over.rows.map((/** @type {any} */ r) => r[k]))]);
  }, (error) => set(said, unusable(error)));
  c.leave(usage.stop);
  const live = name ? h("a", { class: "button small", href: `${to("tail")}?${new URLSearchParams({ consumer: name })}` }, "Live requests") : null;
  put(c.main, h("div", { class: "top" }, h("div", null, h("p", { class: "crumbs" }, link("Consumers", "consumers")), h("h1", null, named(name))), h("div", { class: "aside" }, live, span, csv.element)),
    said, row, requests.element, card("By route", null, routes), name ? card("The consumer", null, about) : null);
  if (name) {
    get(`/api/consumers/${encodeURIComponent(name)}`).then((k) => set(about, terms([["Plan", k.plan || "none"], ["Keys", count(k.keys)], ["From", k.origin || "nowhere: only keys are left"],
      ["Labels", Object.entries(k.labels ?? {}).map(([a, b]) => `${a}=${b}`).join(", ") || null], ["Tokens of", k.jwt?.map((/** @type {any} */ j) => j.subject).join(", ")], ["Users", k.users?.join(", ")], ["Certificates", k.sans?.join(", ")]])),
    (error) => set(about, error.status === 404 ? empty("No consumer of that name is configured.") : h("p", { class: "error" }, error.message)));
  }
}

/** @type {import("../table.js").Column[]} */
const columns = [
  { title: "Requests", num: true, cell: (r) => count(r.requests) },
  { title: "Errors", num: true, cell: (r) => share(r.errors, r.requests) },
  { title: "Rate limited", num: true, cell: (r) => count(r.rate_limited) },
  { title: "Cache hits", num: true, cell: (r) => count(r.cache_hits) },
  { title: "p50", num: true, cell: (r) => took(r.latency?.p50) },
  { title: "p99", num: true, cell: (r) => took(r.latency?.p99) },
  { title: "In", num: true, cell: (r) => bytes(r.bytes_in) },
  { title: "Out", num: true, cell: (r) => bytes(r.bytes_out) },
  { title: "Charged", num: true, cell: (r) => units(r.charged) },
];

/** Units of charges. @param {number | string} n */
export const units = (n) => Number(n).toLocaleString("en-US", { maximumFractionDigits: 6 });

/** @param {string} value @param {() => void} chosen */
function choice(value, chosen) {
  const select = h("select", { "aria-label": "How long", onchange: chosen }, spans.map(([v, text]) => h("option", { value: v }, `The last ${text.replace(/^an? /, "")}`)));
  select.value = spans.some(([v]) => v === value) ? value : "24h";
  return select;
}

/** A link to the same as CSV. */
function download() {
  const element = h("a", { class: "button", download: "usage.csv", hidden: true }, "Export CSV");
  return { element, set: (/** @type {Record<string, string>} */ query) => {
    element.hidden = false;
    element.setAttribute("href", `/api/usage?${new URLSearchParams({ ...query, limit: "10000", format: "csv" })}`);
  } };
}

/** @param {ApiError} error */
function unusable(error) {
  if (error.status !== 404) return h("p", { class: "error" }, error.message);
  return empty("Usage isn't counted by consumer: a usage block in the configuration turns it on. Routes and services are counted without.");
}

/** The consumers, page by page. @param {import("../main.js").Context} c @param {HTMLElement} place */
function pages(c, place) {
  const after = [""];
  const polling = poll(15_000, async (signal) => {
    const page = await get("/api/consumers", { after: after.at(-1), limit: 50 }, signal);
    const turn = (/** @type {() => void} */ f) => () => { f(); polling.now(); };
    set(place, page.consumers?.length ? plain("Consumers", [
      { title: "Consumer", wide: true, cell: (k) => link(k.name, "consumers", k.name) },
      { title: "Plan", cell: (k) => k.plan },
      { title: "Keys", num: true, cell: (k) => count(k.keys) },
      { title: "Labels", wide: true, cell: (k) => Object.entries(k.labels ?? {}).map(([a, b]) => `${a}=${b}`).join(", ") },
      { title: "From", wide: true, cell: (k) => k.origin },
    ], page.consumers) : empty("No consumers are configured."), after.length > 1 || page.next ? h("div", { class: "pager" },
      h("button", { type: "button", disabled: after.length === 1, onclick: turn(() => after.pop()) }, "‹ Before"),
      h("button", { type: "button", disabled: !page.next, onclick: turn(() => after.push(page.next)) }, "After ›")) : null);
  }, (error) => set(place, h("p", { class: "error" }, error.message)));
  c.leave(polling.stop);
}
