import { get, list, poll } from "../api.js";
import { card, empty, h, link, put, set, to } from "../dom.js";
import { bytes, count, rate, share, took } from "../format.js";
import { plain, table } from "../table.js";
import { classes, histogram, lines, tiles } from "./lines.js";

const named = (/** @type {string} */ name) => name || "(no route)";

/** All routes, or one. @param {import("../main.js").Context} c */
export function routes(c) {
  if (c.rest.length) return one(c, c.rest[0] === "(no route)" ? "" : c.rest.join("/"));
  let window = 60;
  const t = table({
    name: "routes", sort: "rate", desc: true, every: 5000, hint: "Name, host, path, service or file",
    load: async (query, signal) => {
      const answer = await get("/api/traffic", { by: "route", latency: false, ...query }, signal);
      window = answer.window;
      return { rows: answer.rows ?? [], count: answer.count };
    },
    columns: [
      { title: "Route", sort: "name", wide: true, cell: (r) => [link(named(r.name), "routes", named(r.name)), r.place ? h("span", { class: "two" }, r.place, r.places > 1 ? ` and ${r.places - 1} more` : "") : null] },
      { title: "To", wide: true, cell: (r) => r.to },
      { title: "Now", sort: "rate", num: true, cell: (r) => rate(r.recent.rate) },
      { title: "Errors", sort: "errors", num: true, cell: (r) => share(r.recent.errors, r.recent.requests) },
      { title: "p50", sort: "p50", num: true, cell: (r) => took(r.recent.p50) },
      { title: "p99", sort: "p99", num: true, cell: (r) => took(r.recent.p99) },
      { title: "Bandwidth", sort: "bytes", num: true, cell: (r) => `${bytes((r.recent.bytes_in + r.recent.bytes_out) / window || 0)}/s` },
      { title: "Requests", sort: "requests", num: true, cell: (r) => count(r.all.requests) },
    ],
  });
  c.leave(t.stop);
  put(c.main, h("div", { class: "top" }, h("h1", null, "Routes"), h("span", { class: "muted" }, "Now: the last minute. Requests: since the start.")), h("div", { class: "card" }, t.element));
}

/** @param {import("../main.js").Context} c @param {string} name */
function one(c, name) {
  const row = h("div", { class: "tiles" }), said = h("div", { role: "status" }), bars = h("div"), by = h("p", { class: "muted" });
  const { element, spans } = lines(c, "route", name);
  const live = h("a", { class: "button small", href: `${to("tail")}?${new URLSearchParams({ route: name })}` }, "Live requests");
  put(c.main, h("div", { class: "top" }, h("div", null, h("p", { class: "crumbs" }, link("Routes", "routes")), h("h1", null, named(name))), h("div", { class: "aside" }, name ? live : null, spans)), said, row, element);
  const places = h("div");
  put(c.main, h("div", { class: "cards" }, card("How long requests took, since the start", null, by, bars)), name ? card("Where it is, and where it goes", null, places) : null);
  const polling = poll(5000, async (signal) => {
    const t = await get(`/api/traffic?by=route&name=${encodeURIComponent(name)}`, {}, signal);
    const r = t.rows?.[0];
    if (!r) return set(said, empty(`There is no route “${name}” in force.`));
    set(said);
    set(row, ...tiles(r, t.window));
    set(by, classes(r.all.classes));
    set(bars, histogram(t.buckets, r.all.latency));
  }, (error) => set(said, h("p", { class: "error" }, error.message)));
  c.leave(polling.stop);
  if (!name) return;
  list("/api/routes", { name, limit: 200 }).then(({ rows, count: all }) => set(places, plain("Places", [
    { title: "Host", wide: true, cell: (p) => p.host || "any" },
    { title: "Path", wide: true, cell: (p) => p.path || "any" },
    { title: "Conditions", wide: true, cell: (p) => p.conditions },
    { title: "To", wide: true, cell: (p) => p.to },
    { title: "Policies", wide: true, cell: (p) => p.policies?.join(", ") },
    { title: "From", wide: true, cell: (p) => p.origin },
  ], rows), all > rows.length ? h("p", { class: "muted" }, `${count(all - rows.length)} more`) : null), (error) => set(places, h("p", { class: "error" }, error.message)));
}
