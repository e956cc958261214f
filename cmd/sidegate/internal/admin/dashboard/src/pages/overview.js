import { get, poll } from "../api.js";
import { badge, card, h, link, many, put, set, terms } from "../dom.js";
import { bytes, count, lasting, moment, when } from "../format.js";
import { plain } from "../table.js";
import { classes, lines, tile, tiles } from "./lines.js";

/** The gateway at a glance. @param {import("../main.js").Context} c */
export function overview(c) {
  const row = h("div", { class: "tiles" }), cards = h("div", { class: "columns" }), said = h("div", { role: "status" });
  const { element, spans } = lines(c, "total");
  put(c.main, h("div", { class: "top" }, h("h1", null, "Overview"), h("div", { class: "aside" }, spans)), said, row, element, cards);
  const boxes = [card("State", null), card("Services", link("All services", "services")), card("Certificates", link("All certificates", "certificates")),
    card("Configuration", link("More", "configuration")), card("Consul and fleet", null), card("Listeners", null), card("Who is asked about clients", null)];
  const bodies = boxes.map((box) => { const body = h("div"); box.append(body); return body; });
  const polling = poll(2500, async (signal) => {
    const o = await get("/api/overview", {}, signal);
    set(row, ...tiles(o.traffic, o.window), tile("In flight", count(o.in_flight), `${count(o.listeners.reduce((/** @type {number} */ n, l) => n + l.connections, 0))} connections`));
    fill(bodies, o);
    boxes[6].hidden = !o.issuers && !o.auth_services;
    if (!cards.childElementCount) put(cards, boxes);
    set(said);
  }, (error) => set(said, h("p", { class: "error" }, error.message)));
  c.leave(polling.stop);
}

/** @param {HTMLElement[]} bodies @param {any} o */
function fill([state, services, certs, config, fleet, listeners, auth], o) {
  set(state, terms([
    ["Ready", o.ready.ready ? (o.ready.reason ? badge("warn", "yes, but") : badge("good", "yes")) : badge("bad", "no")],
    ["Because", o.ready.reason],
    ["Version", o.version],
    ["Started", moment(o.started)],
    ["Process", String(o.pid)],
    ["Answers", classes(o.traffic.all.classes)],
    ["Memory", memory(o.memory)],
    ["Bans", o.bans ? link(`${count(o.bans)} address${o.bans === 1 ? "" : "es"}`, "limits") : "none"],
  ]));
  const s = o.services;
  set(services, terms([
    ["Services", count(s.services)],
    ["Instances", count(s.instances)],
    ["Get nothing", s.down ? badge("bad", many(s.down, "instance")) : badge("good", "none")],
    ["Ejected", s.ejected ? badge("warn", count(s.ejected)) : "none"],
    ["Without any", s.empty ? badge("bad", many(s.empty, "service")) : null],
    ["Look at", s.worst?.length ? s.worst.flatMap((/** @type {string} */ name, /** @type {number} */ i) => [i ? ", " : null, link(name, "services", name)]) : null],
  ]));
  const t = o.certificates;
  set(certs, t.all ? terms([
    ["Certificates", count(t.all)],
    ["With an error", t.failed ? badge("bad", count(t.failed)) : badge("good", "none")],
    ["End in a week", t.soon ? badge("warn", count(t.soon)) : "none"],
    ["The next ends", when(t.next)],
  ]) : h("p", { class: "empty" }, "No certificates: nothing here speaks TLS yet."));
  set(config, terms([
    ["From", o.config.path],
    ["In force since", moment(o.config.loaded)],
    ["Reloads", count(o.config.reloads)],
    ["Newest files", o.config.rejected_by ? badge("bad", "rejected") : badge("good", "in force")],
    ["Routes", link(count(o.routes), "routes")],
    ["Problems", o.problem_count ? badge("warn", count(o.problem_count)) : "none"],
  ]));
  set(fleet, terms([
    ["Consul", o.consul ? consul(o.consul) : "not used"],
    ["Age", o.consul ? `${lasting(o.consul.age_ns / 1e9)} since it answered` : null],
    ["Its error", o.consul?.error],
    ["Last known only", o.stale?.length ? badge("warn", many(o.stale.length, "service")) : null],
    ["Shared counters", o.shared_counters ? counters(o.shared_counters) : "not used"],
    ["Down", o.shared_counters && !o.shared_counters.up ? when(o.shared_counters.down_since) : null],
    ["Its error", o.shared_counters?.error],
    ["Keys", o.consumers ? keys(o.consumers) : null],
    ["Usage", o.usage ? usage(o.usage) : null],
    ["Charges", o.charges ? (o.charges.dead || o.charges.failing || o.charges.down?.length ? badge("bad", many(o.charges.dead, "dead letter")) : badge("good", `${count(o.charges.pending)} pending`)) : null],
  ]));
  set(listeners, plain("Listeners", [
    { title: "Listener", wide: true, cell: (l) => [l.name, h("span", { class: "two" }, `${l.address} ${[l.tls ? "TLS" : "plain", ...l.protocols ?? []].join(" ")}`)] },
    { title: "Open", num: true, cell: (l) => count(l.connections) },
    { title: "In flight", num: true, cell: (l) => count(l.busy) },
    { title: "Refused", num: true, cell: (l) => count(l.refused + l.handshakes) },
  ], o.listeners));
  set(auth, plain("Issuers and services", [
    { title: "Who", wide: true, cell: (a) => a.issuer ?? a.url },
    { title: "State", cell: (a) => a.error ? badge("bad", "error") : badge("good", "answers") },
    { title: "Last error", wide: true, cell: (a) => a.error },
  ], [...o.issuers ?? [], ...o.auth_services ?? []]));
}

/** @param {any} m */
function memory(m) {
  const bar = h("i");
  bar.style.width = `${Math.min(100, 100 * m.used / m.limit)}%`;
  return [`${bytes(m.used)} of ${bytes(m.limit)} (${m.limit_of}), ${m.level}`, h("span", { class: m.used > m.limit * 0.85 ? "meter full" : "meter", "aria-hidden": "true" }, bar)];
}

/** @param {any} k */
const consul = (k) => [k.connected ? badge("good", "answers") : badge("bad", "away"), ` ${k.address}, ${count(k.watches)} watches`];

/** @param {any} k */
const counters = (k) => [k.up ? badge("good", "answers") : badge("bad", "away"), ` ${k.in}`];

/** @param {any} k */
const keys = (k) => `${count(k.keys_in_consul + k.keys_on_disk)} made by command${k.stale ? `, last known ${lasting(k.age_ns / 1e9)} ago` : ""}${k.untold ? `, ${k.untold} revoked that Consul hasn't heard of` : ""}`;

/** @param {any} u */
const usage = (u) => [u.up ? badge("good", "written") : badge("bad", "not written"), ` ${u.database}${u.error ? `: ${u.error}` : ""}`];
