import { change, get, list, poll } from "../api.js";
import { badge, card, empty, h, put, set } from "../dom.js";
import { count, moment, when } from "../format.js";
import { plain, table } from "../table.js";

/** Bans, quotas and what limits refused. @param {import("../main.js").Context} c */
export function limits(c) {
  const act = (/** @type {() => Promise<string>} */ f, /** @type {{now(): void}} */ t) => async () => {
    try { c.tell(await f()); } catch (error) { c.tell(error instanceof Error ? error.message : String(error)); }
    t.now();
  };
  const bans = table({
    name: "bans", sort: "until", desc: true, every: 5000, hint: "Address or route", none: "Nobody is banned.",
    load: (query, signal) => list("/api/bans", query, signal),
    columns: [
      { title: "Client", sort: "client", wide: true, cell: (b) => h("span", { class: "mono" }, b.client) },
      { title: "By", wide: true, cell: (b) => b.by },
      { title: "Since", sort: "since", cell: (b) => when(b.since) },
      { title: "Until", sort: "until", cell: (b) => moment(b.until) },
      { title: "Times", sort: "times", num: true, cell: (b) => count(b.times) },
      ...(c.changes ? [{ title: "", cell: (/** @type {any} */ b) => h("button", { type: "button", class: "small", "aria-label": `Lift the ban of ${b.client}`, onclick: async () => {
        if (await c.confirm(`Lift the ban of ${b.client}?`, "It is forgotten that there was one.", "Lift")) await act(async () => {
          const { removed } = await change("DELETE", "/api/bans", { address: b.client });
          return removed ? `${b.client} isn't banned any more.` : `${b.client} wasn't banned.`;
        }, bans)();
      } }, "Lift") }] : []),
    ],
  });
  const quotas = table({
    name: "quotas", every: 5000, hint: "Client or quota", none: "Nobody has used any of a quota.",
    load: (query, signal) => list("/api/quotas", query, signal),
    columns: [
      { title: "Client", sort: "client", wide: true, cell: (q) => q.client },
      { title: "Quota", sort: "quota", wide: true, cell: (q) => [q.quota, h("span", { class: "two" }, q.period)] },
      { title: "Used", sort: "used", num: true, cell: (q) => [`${count(q.used)} of ${count(q.limit)}`, meter(q.used, q.limit)] },
      { title: "Left", sort: "left", num: true, cell: (q) => count(Math.max(0, q.left)) },
      { title: "Until", cell: (q) => when(q.until) },
      ...(c.changes ? [{ title: "", cell: (/** @type {any} */ q) => h("button", { type: "button", class: "small", "aria-label": `Reset ${q.quota} (${q.period}) of ${q.client}`, onclick: async () => {
        if (await c.confirm(`Reset what ${q.client} has used?`, `${q.quota}, ${q.period}: ${count(q.used)} used.`, "Reset")) await act(async () => {
          await change("POST", "/api/quotas", { quota: q.quota, client: q.client, period: q.period, used: 0 });
          return `${q.client} has used nothing of ${q.quota}.`;
        }, quotas)();
      } }, "Reset") }] : []),
    ],
  });
  const refused = h("div");
  const polling = poll(5000, async (signal) => {
    const l = await get("/api/limits", {}, signal);
    const rows = [...l.rates.map((/** @type {any} */ r) => ({ ...r, kind: "rate_limit" })), ...l.quotas.map((/** @type {any} */ r) => ({ ...r, kind: "quota" }))]
      .sort((a, b) => b.refused - a.refused);
    set(refused, rows.length ? plain("Limits", [
      { title: "Route", wide: true, cell: (r) => r.route },
      { title: "Limit", wide: true, cell: (r) => [r.name, h("span", { class: "two" }, r.kind), r.dry_run ? badge("idle", "dry run") : null] },
      { title: "Refused", num: true, cell: (r) => count(r.refused) },
      { title: "Warned", num: true, cell: (r) => count(r.warned ?? 0) },
      { title: "Errors", num: true, cell: (r) => count(r.errors ?? 0) },
    ], rows.slice(0, 200)) : empty("There are no rate limits or quotas."), rows.length > 200 ? h("p", { class: "muted" }, `${count(rows.length - 200)} more have refused fewer.`) : null);
  }, (error) => set(refused, h("p", { class: "error" }, error.message)));
  [bans, quotas, polling].forEach((p) => c.leave(p.stop));
  put(c.main, h("div", { class: "top" }, h("h1", null, "Limits and bans")),
    card("Bans", null, c.changes ? banForm(act, bans) : null, bans.element),
    card("Quotas", null, quotas.element), card("Refused since the start", null, refused));
}

/** @param {(f: () => Promise<string>, t: {now(): void}) => () => Promise<void>} act @param {{now(): void}} bans */
function banForm(act, bans) {
  const address = h("input", { name: "address", required: true, autocomplete: "off", spellcheck: "false", placeholder: "192.0.2.7" });
  const lasts = h("select", { name: "for" }, [["1h", "an hour"], ["24h", "a day"], ["168h", "a week"], ["720h", "30 days"]].map(([value, text]) => h("option", { value }, text)));
  return h("form", { class: "line-up", onsubmit: (/** @type {Event} */ e) => {
    e.preventDefault();
    act(async () => {
      const b = await change("POST", "/api/bans", { address: address.value.trim(), for: lasts.value });
      address.value = "";
      return `${b.client} is banned.`;
    }, bans)();
  } }, h("label", { class: "field" }, "Address", address), h("label", { class: "field" }, "For", lasts), h("button", null, "Ban"));
}

/** @param {number} part @param {number} whole */
function meter(part, whole) {
  const bar = h("i");
  bar.style.width = `${Math.min(100, whole ? 100 * part / whole : 0)}%`;
  return h("span", { class: part >= whole * 0.8 ? "meter full" : "meter", "aria-hidden": "true" }, bar);
}
