import { list, poll } from "../api.js";
import { badge, card, empty, h, link, put, set, terms, to } from "../dom.js";
import { count, known, rate, share, took, when } from "../format.js";
import { plain, table } from "../table.js";
import { classes, lines, tile, tiles } from "./lines.js";

/** All services, or one. @param {import("../main.js").Context} c */
export function services(c) {
  if (c.rest.length) return one(c, c.rest.join("/"));
  let down = false;
  const only = h("button", { type: "button", "aria-pressed": "false", onclick: () => {
    down = !down;
    only.setAttribute("aria-pressed", String(down));
    t.now();
  } }, "Only with instances down");
  const t = table({
    name: "services", sort: "rate", desc: true, every: 5000, hint: "Service, address or node", controls: [only],
    none: "No services: routes that answer by themselves need none.",
    load: (query, signal) => list("/api/services", { ...query, state: down ? "down" : "" }, signal),
    columns: [
      { title: "Service", sort: "name", wide: true, cell: (s) => link(s.service, "services", s.service) },
      { title: "State", sort: "down", cell: state },
      { title: "Instances", sort: "instances", num: true, cell: (s) => `${s.instances.length - s.down} of ${s.instances.length}` },
      { title: "In flight", sort: "in_flight", num: true, cell: (s) => count(s.in_flight) },
      { title: "Now", sort: "rate", num: true, cell: (s) => rate(s.traffic.recent.rate) },
      { title: "Errors", sort: "errors", num: true, cell: (s) => share(s.traffic.recent.errors, s.traffic.recent.requests) },
      { title: "p99", sort: "p99", num: true, cell: (s) => took(s.traffic.recent.p99) },
    ],
  });
  c.leave(t.stop);
  put(c.main, h("div", { class: "top" }, h("h1", null, "Services")), h("div", { class: "card" }, t.element));
}

/** @param {any} s */
function state(s) {
  if (!s.instances.length) return badge("bad", "no instances");
  if (s.panic) return badge("bad", "health ignored");
  if (s.down === s.instances.length) return badge("bad", "all down");
  if (s.down) return badge("warn", `${s.down} down`);
  if (s.stale) return badge("warn", "last known");
  return badge("good", "healthy");
}

/** @param {import("../main.js").Context} c @param {string} name */
function one(c, name) {
  const row = h("div", { class: "tiles" }), said = h("div", { role: "status" }), about = h("div"), instances = h("div");
  const { element, spans } = lines(c, "service", name);
  const live = h("a", { class: "button small", href: `${to("tail")}?${new URLSearchParams({ service: name })}` }, "Live requests");
  put(c.main, h("div", { class: "top" }, h("div", null, h("p", { class: "crumbs" }, link("Services", "services")), h("h1", null, name)), h("div", { class: "aside" }, live, spans)),
    said, row, card("Instances", null, instances), element, h("div", { class: "cards" }, card("The service", null, about)));
  const polling = poll(3000, async (signal) => {
    const { rows: [s] } = await list(`/api/services?name=${encodeURIComponent(name)}`, {}, signal);
    if (!s) return set(said, empty(`There is no service “${name}” in force.`));
    set(said);
    set(row, ...tiles(s.traffic, s.window), tile("In flight", count(s.in_flight), s.queue ? `${count(s.queue)} wait` : ""));
    set(instances, s.instances.length ? plain("Instances", columns, s.instances, (i) => i.eligible ? "" : "down") : empty("No instances."));
    const a = s.adaptive;
    set(about, terms([
      ["State", state(s)], ["Problem", s.problem], ["Protocol", s.protocol], ["Balance", s.balance],
      ["Last heard of", when(s.updated)], ["Answers", classes(s.traffic.all.classes)],
      ["Tries", `${count(s.tries)} for ${count(s.requests)} requests`], ["Failures", count(s.failures)],
      ["Retries", `${count(s.retries_made)} of ${count(s.retries_allowed)} allowed in ten seconds, ${count(s.over_budget)} forbidden so far`],
      ["No instance", s.no_instance ? count(s.no_instance) : null], ["Overloaded", s.overloaded ? count(s.overloaded) : null],
      ["Adaptive limit", a ? `${count(a.limit)} at once, ${count(a.in_flight)} in flight, ${took(a.baseline / 1e9)} at ease` : null],
      ["Shed", a ? ["low", "normal", "high"].map((p) => `${p} ${count(a.shed?.[p] ?? 0)}`).join(", ") : null],
    ]));
  }, (error) => set(said, h("p", { class: "error" }, error.message)));
  c.leave(polling.stop);
}

/** @type {import("../table.js").Column[]} */
const columns = [
  { title: "Instance", wide: true, cell: (i) => [h("span", { class: "mono" }, i.address), h("span", { class: "two" }, [i.node, i.local ? "this host" : "", i.id && i.id !== i.address ? i.id : ""].filter(Boolean).join(" · "))] },
  { title: "Health", wide: true, cell: (i) => [i.eligible ? badge("good", i.health || "healthy") : badge("bad", "gets nothing"), h("span", { class: "two" }, [i.why, i.check ? `check: ${i.check}` : "", i.check_error].filter(Boolean).join(" · "))] },
  { title: "Ejections", wide: true, cell: (i) => i.ejections ? [`${count(i.ejections)}${known(i.ejected_until) && new Date(i.ejected_until) > new Date() ? ", until " : ""}`, known(i.ejected_until) && new Date(i.ejected_until) > new Date() ? when(i.ejected_until) : null, h("span", { class: "two" }, i.ejected_why)] : "none" },
  { title: "Weight", num: true, cell: (i) => i.effective_weight && Math.abs(i.effective_weight - i.weight) > 0.01 ? `${i.effective_weight.toFixed(1)} of ${i.weight}` : String(i.weight) },
  { title: "In flight", num: true, cell: (i) => count(i.pending) },
  { title: "Latency", num: true, cell: (i) => i.latency ? took(i.latency / 1e9) : "–" },
  { title: "Requests", num: true, cell: (i) => count(i.requests) },
  { title: "Failures", num: true, cell: (i) => count(i.failures) },
  { title: "Connections", num: true, cell: (i) => `${count(i.open)}, ${count(i.idle)} idle` },
];
