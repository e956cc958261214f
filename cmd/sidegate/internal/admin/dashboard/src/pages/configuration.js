import { change, get, poll } from "../api.js";
import { badge, card, empty, h, put, set, terms } from "../dom.js";
import { bytes, count, local, moment } from "../format.js";

const shownMost = 300_000;

/** What is in force, what was rejected and why. @param {import("../main.js").Context} c */
export function configuration(c) {
  const force = h("div"), rejected = h("div"), problems = h("div"), changes = h("div");
  const reload = h("button", { type: "button", class: "small", onclick: async () => {
    reload.disabled = true;
    try { await change("POST", "/api/reload"); c.tell("The configuration was loaded again."); } catch (error) { c.tell(error instanceof Error ? error.message.split("\n")[0] : String(error)); }
    reload.disabled = false;
    polling.now();
  } }, "Load again");
  const rejectedCard = card("The newest files are rejected", null, rejected);
  put(c.main, h("div", { class: "top" }, h("h1", null, "Configuration")), rejectedCard,
    h("div", { class: "cards" }, card("In force", c.changes ? reload : null, force), card("Changes", null, changes)),
    card("Problems in Consul's registrations and KV", null, problems), card("Configuration in force, secrets hidden", null, whole()));
  /** @type {string | undefined} */
  let told = "";
  const polling = poll(4000, async (signal) => {
    const o = await get("/api/overview", {}, signal), k = o.config;
    rejectedCard.hidden = !k.rejected_by;
    set(rejected, h("p", null, badge("bad", "rejected"), " ", moment(k.rejected), "; what was in force goes on."), h("pre", null, k.rejected_by ?? ""));
    set(force, terms([["From", k.path], ["In force since", moment(k.loaded)], ["Reloads", count(k.reloads)], ["Routes", count(o.routes)], ["Services", count(o.services.services)]]));
    const newest = JSON.stringify(k.changes);
    if (newest !== told) set(changes, k.changes?.length ? h("ul", { class: "problems" }, k.changes.map((/** @type {any} */ x) => h("li", null,
      { loaded: badge("good", "loaded"), rejected: badge("bad", "rejected"), routes: badge("idle", "by Consul") }[/** @type {"loaded"} */ (x.what)], " ", h("time", { datetime: x.time, class: "nowrap" }, local(new Date(x.time))),
      x.error ? h("details", null, h("summary", null, "Why"), h("pre", null, x.error)) : null))) : empty("None yet."));
    told = newest; // only then: what was opened stays open
    const list = o.problems ?? [];
    set(problems, list.length ? h("ul", { class: "problems" }, list.map((/** @type {any} */ p) => h("li", null, badge("warn", p.where), " ", p.text))) : empty("None."),
      o.problem_count > list.length ? h("p", { class: "muted" }, `${count(o.problem_count - list.length)} more`) : null);
  }, (error) => set(force, h("p", { class: "error" }, error.message)));
  c.leave(polling.stop);
}

/** The configuration as JSON, once it is asked for. */
function whole() {
  const text = h("div");
  const button = h("button", { type: "button", onclick: async () => {
    try {
      const json = JSON.stringify(await get("/api/config"), null, 2);
      set(text, h("pre", { class: "code", tabindex: "0" }, json.slice(0, shownMost)), json.length > shownMost ? h("p", { class: "muted" }, `The first ${bytes(shownMost)} of ${bytes(json.length)}.`) : null);
    } catch (error) { set(text, h("p", { class: "error" }, error instanceof Error ? error.message : String(error))); }
  } }, "Show");
  return h("div", { class: "listing" }, h("div", { class: "bar" }, button, h("a", { class: "button", href: "/api/config", download: "sidegate-config.json" }, "Save as JSON")), text);
}
