import { badge, card, h, link, put, set, terms } from "../dom.js";
import { bytes, clock, count, took } from "../format.js";

const shownMost = 200;
const heads = ["Time", "Status", "Request", "Route", "Client", "Took", "Bytes"];

/** Requests as they end. @param {import("../main.js").Context} c */
export function tail(c) {
  const field = (/** @type {string} */ name, /** @type {string} */ title, /** @type {string} */ hint) => h("label", { class: "field" }, title,
    h("input", { name, value: c.query.get(name) ?? "", placeholder: hint, autocomplete: "off", spellcheck: "false" }));
  const status = h("select", { name: "status" }, [["", "all"], ["2xx"], ["3xx"], ["4xx"], ["5xx"], ["0xx", "no response"]].map(([value, text]) => h("option", { value }, text ?? value)));
  status.value = c.query.get("status") ?? "";
  const form = h("form", { class: "line-up", role: "search", onsubmit: (/** @type {Event} */ e) => { e.preventDefault(); begin(); }, onchange: () => begin() },
    h("label", { class: "field" }, "Status", status), field("route", "Route", "its name"), field("service", "Service", "its name"), field("consumer", "Consumer", "its name"),
    field("client", "Client", "192.0.2.0/24"), field("q", "Text", "path, host, agent, id, error"), h("button", { class: "hidden", tabindex: "-1", "aria-hidden": "true" }, "Filter"));
  const pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => hold(!paused) }, "Pause");
  const clear = h("button", { type: "button", onclick: () => { held = []; body.replaceChildren(); say(); } }, "Clear");
  const body = h("tbody"), said = h("span", { role: "status" }), state = h("span");
  const nothing = h("p", { class: "empty" });
  put(c.main, h("div", { class: "top" }, h("h1", null, "Live requests"), h("div", { class: "aside" }, state, pause, clear)),
    h("div", { class: "card" }, form, h("p", { class: "muted" }, said),
      h("div", { class: "table tail" }, h("table", null, h("caption", { class: "hidden" }, "Requests, newest first"), h("thead", null, h("tr", null, heads.map((t, i) => h("th", { scope: "col", class: i > 4 ? "num" : null }, t)))), body)), nothing));

  let paused = false, leftOut = 0, seen = 0, due = false;
  /** @type {any[]} */
  let held = [];
  /** @type {EventSource | null} */
  let source = null;

  function begin() {
    source?.close();
    leftOut = seen = 0;
    held = [];
    body.replaceChildren();
    const given = /** @type {[string, string][]} */ ([...new FormData(form)].map(([k, v]) => [k, String(v).trim()]).filter(([, v]) => v));
    const query = new URLSearchParams(given).toString();
    history.replaceState(null, "", `#/tail${query ? `?${query}` : ""}`);
    const stream = source = new EventSource(`/api/tail${query ? `?${query}` : ""}`);
    set(state, badge("idle", "connecting"));
    stream.onopen = () => { set(state, badge("good", "live")); say(); };
    stream.onerror = () => {
      set(state, badge("bad", "not connected"));
      if (stream.readyState === EventSource.CLOSED) refused(stream.url);
    };
    stream.onmessage = (e) => { seen++; held.push(JSON.parse(e.data)); if (held.length > shownMost) held.shift(); later(); };
    stream.addEventListener("left_out", (e) => { leftOut += Number(/** @type {MessageEvent} */ (e).data); later(); });
  }
  /** The stream says no reason; asking again as a page does. @param {string} url */
  async function refused(url) {
    const control = new AbortController();
    try {
      const response = await fetch(url, { signal: control.signal });
      if (!response.ok) said.textContent = (await response.text()).trim();
    } catch { /* the banner says it */ }
    control.abort();
  }
  function later() {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; show(); });
  }
  function show() {
    if (!paused) {
      for (const e of held) body.prepend(...line(e));
      held = [];
      for (let rows = body.querySelectorAll("tr:not(.more)"); rows.length > shownMost; rows = body.querySelectorAll("tr:not(.more)")) {
        const last = rows[rows.length - 1];
        if (last.nextElementSibling) last.nextElementSibling.remove();
        last.remove();
      }
    }
    say();
  }
  function say() {
    said.textContent = `${count(seen)} requests seen` + (leftOut ? `, and ${count(leftOut)} left out: they came too fast to show` : "") + (paused && held.length ? `; ${count(held.length)}${held.length === shownMost ? " or more" : ""} wait` : "") + ".";
    nothing.textContent = body.childElementCount ? "" : paused ? "Paused." : "No request has ended since, or none that the filter wants.";
  }
  /** @param {boolean} on */
  function hold(on) {
    paused = on;
    pause.setAttribute("aria-pressed", String(on));
    pause.textContent = on ? "Go on" : "Pause";
    show();
  }

  begin();
  c.leave(() => source?.close());
}

/** A request's row, which opens another with all that is known. @param {any} e @returns {HTMLElement[]} */
function line(e) {
  const cells = [
    h("button", { type: "button", class: "small", "aria-expanded": "false", onclick: (/** @type {Event} */ event) => open(/** @type {HTMLElement} */ (event.currentTarget), e) }, clock(new Date(e.time))),
    h("span", { class: `status c${Math.floor(e.status / 100)}` }, e.status || "none"),
    [h("b", null, e.method), " ", `${e.host}${e.path}${e.query ? "?…" : ""}`, e.fault ? h("span", { class: "two" }, e.fault) : null],
    [e.route ? link(e.route, "routes", e.route) : "–", h("span", { class: "two" }, e.cached ? "from the cache" : [e.service, e.instance].filter(Boolean).join(" "))],
    [h("span", { class: "mono" }, e.client), e.consumer ? h("span", { class: "two" }, e.consumer) : null],
    took(e.seconds), bytes(e.bytes_out),
  ];
  return [h("tr", null, cells.map((cell, i) => h("td", { "data-label": heads[i], class: ["", "", "path", "wide", "wide", "num", "num"][i] || null }, h("div", null, /** @type {any} */ (cell)))))];
}

/** @param {HTMLElement} button @param {any} e */
function open(button, e) {
  const row = /** @type {HTMLElement} */ (button.closest("tr"));
  const was = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!was));
  if (was) return row.nextElementSibling?.remove();
  row.after(h("tr", { class: "more" }, h("td", { colspan: heads.length }, terms([
    ["Request id", h("span", { class: "mono" }, e.request_id)], ["Ended", e.time], ["Protocol", e.protocol], ["User agent", e.user_agent],
    ["Service", [e.service, e.instance].filter(Boolean).join(" ")], ["Tries", e.tries ? String(e.tries) : null], ["Waited for it", e.upstream_seconds ? took(e.upstream_seconds) : null],
    ["Bytes", `${bytes(e.bytes_in)} in, ${bytes(e.bytes_out)} out`], ["Fault", e.fault ? `${e.error} (${e.source})` : null],
  ]))));
}
