import { change, get, poll } from "../api.js";
import { card, empty, h, link, many, put, set } from "../dom.js";
import { bytes, count, share } from "../format.js";
import { plain } from "../table.js";
import { tile } from "./lines.js";

/** What is answered from memory. @param {import("../main.js").Context} c */
export function cache(c) {
  const row = h("div", { class: "tiles" }), rows = h("div"), said = h("div", { role: "status" });
  const polling = poll(3000, async (signal) => {
    const k = await get("/api/cache", {}, signal);
    const list = k.routes ?? [];
    const sum = (/** @type {string} */ name) => list.reduce((/** @type {number} */ n, /** @type {any} */ r) => n + (r[name] ?? 0), 0);
    const answered = sum("hits") + sum("misses") + sum("passed") + sum("collapsed");
    set(row, tile("Hit ratio", share(sum("hits") + sum("collapsed"), answered), `of ${count(answered)} requests`), tile("Answers stored", count(k.items)), tile("Memory", bytes(k.bytes)),
      ...(k.disk?.most ? [tile("On disk", bytes(k.disk.used ?? 0), k.disk.problem || `of ${bytes(k.disk.most)}`, k.disk.problem ? "bad" : "")] : []),
      tile("From memory", bytes(sum("bytes")), "bytes that no service sent"), tile("Stale answers", count(sum("stale")), `${count(sum("errors"))} instead of errors`));
    set(rows, list.length ? plain("Routes", [
      { title: "Route", wide: true, cell: (r) => link(r.route, "routes", r.route) },
      { title: "Hit ratio", num: true, cell: (r) => share(r.hits + r.collapsed, r.hits + r.misses + r.passed + r.collapsed) },
      ...["hits", "stale", "misses", "validated", "collapsed", "passed", "stored", "refreshed"].map((name) => ({ title: name[0].toUpperCase() + name.slice(1), num: true, cell: (/** @type {any} */ r) => count(r[name]) })),
      { title: "Bytes", num: true, cell: (r) => bytes(r.bytes) },
    ], [...list].sort((a, b) => b.hits - a.hits).slice(0, 200)) : empty("No route has a cache block."), list.length > 200 ? h("p", { class: "muted" }, `${count(list.length - 200)} more routes have fewer hits.`) : null);
    set(said);
  }, (error) => set(said, h("p", { class: "error" }, error.message)));
  c.leave(polling.stop);
  put(c.main, h("div", { class: "top" }, h("h1", null, "Cache")), said, row, card("By route", null, rows), c.changes ? card("Forget answers", null, purge(c, polling)) : null);
}

/** @type {Record<string, string>} */
const examples = { url: "https://api.example.com/orders/*", host: "api.example.com", tag: "product-7", route: "orders" };

/** What became of other nodes. @type {Record<string, string>} */
const told = { all: ", and on all other nodes", waiting: "; the other nodes are told when Consul answers" };

/** @param {import("../main.js").Context} c @param {{now(): void}} polling */
function purge(c, polling) {
  const by = h("select", { name: "by", onchange: () => { url.placeholder = examples[by.value]; } }, [["url", "URL"], ["host", "Host"], ["tag", "Tag"], ["route", "Route"]].map(([value, text]) => h("option", { value }, text)));
  const url = h("input", { name: "url", required: true, autocomplete: "off", spellcheck: "false", placeholder: examples.url, size: 44 });
  return h("form", { class: "line-up", onsubmit: async (/** @type {Event} */ e) => {
    e.preventDefault();
    try {
      const { purged, nodes } = await change("DELETE", "/api/cache", { [by.value]: url.value.trim() });
      c.tell(`${many(purged, "answer")} forgotten here${told[nodes] ?? ""}.`);
    } catch (error) { c.tell(error instanceof Error ? error.message : String(error)); }
    polling.now();
  } }, h("label", { class: "field" }, "By", by), h("label", { class: "field" }, "Which; a URL with * at its end: all that begin so", url), h("button", null, "Forget"));
}
