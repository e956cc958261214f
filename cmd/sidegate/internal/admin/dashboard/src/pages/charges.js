import { change, get, poll } from "../api.js";
import { badge, card, empty, h, link, put, set } from "../dom.js";
import { bytes, count, known, local, when } from "../format.js";
import { plain } from "../table.js";
import { units } from "./consumers.js";
import { tile } from "./lines.js";

/** What requests cost, and whether the billing services know. @param {import("../main.js").Context} c */
export function charges(c) {
  const row = h("div", { class: "tiles" }), services = h("div"), totals = h("div"), list = h("div"), said = h("div", { role: "status" });
  const since = h("input", { type: "date", "aria-label": "Since" });
  since.valueAsDate = new Date(Date.now() - 30 * 86400_000);
  since.addEventListener("change", () => polling.now());
  const state = h("select", { "aria-label": "State", onchange: () => polling.now() }, [["", "All states"], ["pending", "Pending"], ["dead", "Dead letters"], ["done", "Done"]].map(([value, text]) => h("option", { value }, text)));
  const all = h("button", { type: "button", class: "small", hidden: true, onclick: () => retry(c, { all: true }, polling) }, "Retry all dead letters");
  /** @type {any[]} */
  let days = [];
  const csv = h("button", { type: "button", onclick: () => save(days) }, "Export CSV");
  const compared = h("div");
  const comparing = h("button", { type: "button", onclick: () => compare(since.value, comparing, compared) }, "Compare with the billing services");
  const body = h("div", { class: "listing" }, row, card("By consumer", [since, csv], totals), card("Billing services", comparing, services, compared), card("Charges", [state, all], list));
  const polling = poll(5000, async (signal) => {
    const s = await get("/api/charges/status", {}, signal);
    const unused = !s.services?.length && !s.counts?.length && !s.pending && !s.dead;
    body.hidden = unused;
    if (unused) return set(said, none());
    set(row, tile("Pending", count(s.pending), known(s.oldest) ? ["oldest ", when(s.oldest)] : s.pending ? "of requests in flight" : ""), tile("Dead letters", count(s.dead), s.dead ? "a person has to look" : "", s.dead ? "bad" : ""),
      tile("Spool", bytes(s.spool.bytes), s.spool.failing ? s.spool.error : `of ${bytes(s.spool.limit)}`, s.spool.failing ? "bad" : ""));
    all.hidden = !c.changes || !s.dead;
    set(services, s.services?.length ? plain("Billing services", [
      { title: "Service", wide: true, cell: (v) => v.service },
      { title: "State", wide: true, cell: (v) => v.down ? [badge("bad", "down"), h("span", { class: "two" }, v.error, known(v.failed) ? [" ", when(v.failed)] : "")].flat() : badge(v.configured === false ? "idle" : "good", v.configured === false ? "not configured any more" : "answers") },
      { title: "Pending", num: true, cell: (v) => count(v.pending) }, { title: "Leases", num: true, cell: (v) => count(v.leases) },
      { title: "Requests", num: true, cell: (v) => count(v.requests) }, { title: "Failures", num: true, cell: (v) => count(v.failures) },
    ], s.services) : empty("No billing service is configured."));
    const [t, l] = await Promise.all([get("/api/charges/totals", { since: since.value }, signal), get("/api/charges", { state: state.value, limit: 100 }, signal)]);
    days = t.totals ?? [];
    set(totals, days.length ? plain("Totals", [
      { title: "Consumer", wide: true, cell: (k) => k.consumer ? link(k.consumer, "consumers", k.consumer) : "(nobody known)" }, { title: "Meter", wide: true, cell: (k) => k.meter },
      { title: "Units", num: true, cell: (k) => units(k.units) }, { title: "Charges", num: true, cell: (k) => count(k.count) },
      { title: "Told", num: true, cell: (k) => units(k.told) }, { title: "Untold", num: true, cell: (k) => units(k.untold) },
    ], byConsumer(days).slice(0, 500)) : empty("Nothing has been charged in this time."));
    set(list, l.charges?.length ? plain("Charges", [
      { title: "Time", cell: (k) => h("time", { datetime: k.time, class: "nowrap" }, local(new Date(k.time))) },
      { title: "State", wide: true, cell: (k) => [badge(/** @type {any} */ ({ dead: "bad", refused: "warn", settled: "good", returned: "good" })[k.state] ?? "idle", k.state), h("span", { class: "two" }, k.reason)] },
      { title: "Consumer", wide: true, cell: (k) => k.consumer }, { title: "Meter", wide: true, cell: (k) => [k.meter, h("span", { class: "two" }, [k.kind === "lease" ? "lease" : k.mode, k.route].filter(Boolean).join(" · "))] },
      { title: "Units", num: true, cell: (k) => units(k.units) }, { title: "Id", cell: (k) => h("span", { class: "mono" }, k.id) },
      ...(c.changes ? [{ title: "", cell: (/** @type {any} */ k) => k.state === "dead" ? h("button", { type: "button", class: "small", "aria-label": `Retry ${k.id}`, onclick: () => retry(c, { id: k.id }, polling) }, "Retry") : " " }] : []),
    ], l.charges) : empty("No charges."));
    set(said);
  }, (error) => {
    if (error.status === 404) body.hidden = true;
    set(said, error.status === 404 ? none() : h("p", { class: "error" }, error.message));
  });
  c.leave(polling.stop);
  put(c.main, h("div", { class: "top" }, h("h1", null, "Charges")), said, body);
}

const none = () => empty("Nothing is charged: a charge block on a route turns it on.");

/** Days added up. Amounts have six decimals at most. @param {any[]} days */
function byConsumer(days) {
  const sum = new Map();
  for (const d of days) {
    const key = JSON.stringify([d.consumer, d.meter]);
    const s = sum.get(key) ?? { consumer: d.consumer, meter: d.meter, units: 0, count: 0, told: 0, untold: 0 };
    for (const k of ["units", "told", "untold"]) s[k] = Math.round((s[k] + Number(d[k])) * 1e6) / 1e6;
    s.count += d.count;
    sum.set(key, s);
  }
  return [...sum.values()].sort((a, b) => b.units - a.units);
}

/** Asks the billing services for what they know, and shows where that differs. @param {string} since @param {HTMLButtonElement} button @param {HTMLElement} place */
async function compare(since, button, place) {
  button.disabled = true;
  try {
    const r = await get("/api/charges/reconcile", { since });
    set(place, ...(r.services ?? []).map((/** @type {any} */ s) => s.error ? h("p", { class: "error" }, `${s.service}: ${s.error}`)
      : s.differences?.length ? plain(`Differences with ${s.service}`, [
        { title: "Day", cell: (d) => d.day }, { title: "Consumer", wide: true, cell: (d) => d.consumer }, { title: "Meter", wide: true, cell: (d) => d.meter },
        { title: "Ours", num: true, cell: (d) => units(d.ours) }, { title: "Theirs", num: true, cell: (d) => units(d.theirs) }, { title: "Untold", num: true, cell: (d) => units(d.untold) },
      ], s.differences.slice(0, 200)) : h("p", null, badge("good", `${s.service}: ${count(s.compared)} totals are equal`))));
    if (!r.services?.length) set(place, empty("There is nothing to compare."));
  } catch (error) { set(place, h("p", { class: "error" }, error instanceof Error ? error.message : String(error))); }
  button.disabled = false;
}

/** @param {import("../main.js").Context} c @param {Record<string, any>} what @param {{now(): void}} polling */
async function retry(c, what, polling) {
  if (!await c.confirm(what.all ? "Retry all dead letters?" : `Retry ${what.id}?`, "The billing service is told again, with the same ids.", "Retry")) return;
  try {
    const { retried } = await change("POST", "/api/charges/retry", what);
    c.tell(`${count(retried)} are tried again.`);
  } catch (error) { c.tell(error instanceof Error ? error.message : String(error)); }
  polling.now();
}

/** Saves days as CSV. What a spreadsheet would take for a formula is quoted. @param {any[]} days */
function save(days) {
  const names = ["day", "consumer", "meter", "units", "count", "told", "untold"];
  const cell = (/** @type {any} */ v) => `"${String(v ?? "").replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  const text = [names.join(","), ...days.map((d) => names.map((n) => cell(d[n])).join(","))].join("\r\n") + "\r\n";
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  h("a", { href: url, download: "charges.csv" }).click();
  URL.revokeObjectURL(url);
}
