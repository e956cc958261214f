// The frame: menu, theme, session, and which page is shown.
import { get, login, logout, poll, watch } from "./api.js";
import { recolour } from "./chart.js";
import { card, h, put, set } from "./dom.js";
import { lasting } from "./format.js";
import { cache } from "./pages/cache.js";
import { certificates } from "./pages/certificates.js";
import { charges } from "./pages/charges.js";
import { configuration } from "./pages/configuration.js";
import { consumers } from "./pages/consumers.js";
import { limits } from "./pages/limits.js";
import { overview } from "./pages/overview.js";
import { routes } from "./pages/routes.js";
import { services } from "./pages/services.js";
import { tail } from "./pages/tail.js";

/**
 * What a page gets.
 * @typedef {Object} Context
 * @property {HTMLElement} main where it is shown
 * @property {string[]} rest of the address: ["NAME"] of #/routes/NAME
 * @property {URLSearchParams} query
 * @property {boolean} changes whether it may change something
 * @property {(text: string) => void} tell says that something was done
 * @property {(question: string, more: string, verb: string) => Promise<boolean>} confirm
 * @property {(stop: () => void) => void} leave what to do when another page is opened
 */

/** @type {[string, string, (c: Context) => void][]} */
const pages = [
  ["overview", "Overview", overview],
  ["routes", "Routes", routes],
  ["services", "Services", services],
  ["consumers", "Consumers", consumers],
  ["charges", "Charges", charges],
  ["limits", "Limits and bans", limits],
  ["cache", "Cache", cache],
  ["certificates", "Certificates", certificates],
  ["configuration", "Configuration", configuration],
  ["tail", "Live requests", tail],
];

const themes = /** @type {const} */ (["auto", "light", "dark"]);
let session = { token: false, reads: true, changes: false };
/** @type {(() => void)[]} */
let leaving = [];
let silentSince = 0, shown = "";

const main = h("main", { id: "main", tabindex: "-1" });
const silence = h("div", { class: "banner", role: "alert", hidden: true });
const note = h("div", { class: "banner note", role: "status", hidden: true });
const who = h("div"), marks = /** @type {Record<string, HTMLElement>} */ ({});
const toast = h("div", { class: "toast", role: "status", "aria-live": "polite" });
const themeButton = h("button", { type: "button", class: "small", onclick: nextTheme });
const menuButton = h("button", { type: "button", class: "menu", "aria-expanded": "false", "aria-controls": "menu", onclick: () => openMenu(!side.classList.contains("open")) }, "Menu");
const links = pages.map(([name, title]) => h("a", { href: `#/${name}` }, title, marks[name] = h("span", { class: "mark" })));
const version = h("span", { class: "muted" });
const side = h("div", { class: "side" },
  h("div", { class: "head" }, h("a", { class: "brand", href: "#/overview" }, h("i", { "aria-hidden": "true" }), "sidegate"), menuButton),
  h("nav", { id: "menu", "aria-label": "Pages" }, h("ul", null, links.map((a) => h("li", null, a)))),
  h("div", { class: "foot" }, who, themeButton, version));

/** @param {boolean} open */
function openMenu(open) {
  side.classList.toggle("open", open);
  menuButton.setAttribute("aria-expanded", String(open));
}

function theme() {
  const chosen = localStorage.getItem("theme");
  return themes.find((t) => t === chosen) ?? "auto";
}

function nextTheme() {
  localStorage.setItem("theme", themes[(themes.indexOf(theme()) + 1) % themes.length]);
  applyTheme();
  recolour();
}

function applyTheme() {
  const t = theme();
  if (t === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", t);
  themeButton.textContent = `Theme: ${t}`;
}

/** @param {string} text */
function tell(text) {
  toast.textContent = text;
  setTimeout(() => { if (toast.textContent === text) toast.textContent = ""; }, 6000);
}

/** @param {string} question @param {string} more @param {string} verb @returns {Promise<boolean>} */
function confirm(question, more, verb) {
  return new Promise((done) => {
    const dialog = h("dialog", { "aria-labelledby": "question", onclose: () => { dialog.remove(); done(dialog.returnValue === "yes"); } },
      h("form", { method: "dialog" }, h("h2", { id: "question" }, question), more && h("p", { class: "muted" }, more),
        h("div", { class: "buttons" }, h("button", { value: "no" }, "Cancel"), h("button", { value: "yes", class: "main" }, verb))));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Shows the page of the address. @param {boolean} [moved] whether a person went there */
function show(moved) {
  leaving.forEach((stop) => stop());
  leaving = [];
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/").map(decode);
  const page = pages.find((p) => p[0] === name) ?? pages[0];
  links.forEach((a, i) => pages[i] === page ? a.setAttribute("aria-current", "page") : a.removeAttribute("aria-current"));
  document.title = `${rest[0] ? `${rest[0]} · ` : ""}${page[1]} · sidegate`;
  openMenu(false);
  main.replaceChildren();
  if (!session.reads) return showLogin();
  page[2]({ main, rest, query: new URLSearchParams(query ?? ""), changes: session.changes, tell, confirm, leave: (stop) => leaving.push(stop) });
  if (moved && path !== shown) { main.focus({ preventScroll: true }); scrollTo(0, 0); }
  shown = path;
}

/** @param {string} text */
function decode(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function showLogin() {
  const field = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true, id: "token" });
  const said = h("p", { class: "error", role: "alert" });
  const button = h("button", { class: "main" }, "Log in");
  main.append(h("div", { class: "login" }, card("Log in", null,
    h("form", { onsubmit: async (/** @type {Event} */ e) => {
      e.preventDefault();
      button.disabled = true;
      said.textContent = "";
      try {
        await login(field.value);
        field.value = "";
        await look();
        show();
        main.focus();
        glance().catch(() => {});
      } catch (error) {
        said.textContent = error instanceof Error ? sentence(error.message) : String(error);
        field.select();
      } finally { button.disabled = false; }
    } }, h("label", { class: "field" }, "Token (admin.token of the configuration)", field), said, h("div", null, button)))));
  field.focus();
}

/** @param {string} text */
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** Asks what this browser may do, and shows it. */
async function look() {
  session = await get("/api/session");
  if (session.changes) {
    set(who, h("button", { type: "button", class: "small", onclick: async () => { await logout(); await look(); show(); } }, "Log out"));
  } else if (!session.token) {
    set(who, h("span", { class: "muted", title: "Set admin.token in the configuration to change something here, or use the command line." }, "Read-only: there is no admin.token"));
  } else set(who);
}

watch.answered = () => {
  silentSince = 0;
  silence.hidden = true;
};
watch.silent = () => {
  silentSince ||= Date.now();
  sayNothing();
};
watch.refused = () => {
  if (!session.reads) return;
  session = { ...session, reads: false, changes: false };
  set(who);
  show();
};

function sayNothing() {
  if (!silentSince) return;
  silence.hidden = false;
  silence.textContent = `The gateway hasn't answered for ${lasting((Date.now() - silentSince) / 1000 + 1)}. What is shown is from before.`;
}

/** What the menu and the banner tell wherever one is. */
async function glance() {
  if (!session.reads) return;
  const o = await get("/api/overview");
  set(version, `${o.version}, up ${lasting((Date.parse(o.now) - Date.parse(o.started)) / 1000)}`);
  const say = (/** @type {string} */ name, /** @type {number} */ n, /** @type {string} */ what) => set(marks[name], n ? h("span", { title: `${n} ${what}` }, String(n), h("span", { class: "hidden" }, ` ${what}`)) : null);
  say("services", o.services.down, "instances get no requests");
  say("certificates", o.certificates.failed, "certificates with an error");
  say("configuration", (o.config.rejected_by ? 1 : 0) + o.problem_count, "problems");
  say("charges", o.charges?.dead ?? 0, "dead letters");
  note.hidden = o.ready.ready && !o.ready.reason;
  note.textContent = o.ready.ready ? `Serving, but: ${o.ready.reason}.` : `Not ready: ${o.ready.reason || "starting"}.`;
}

async function begin() {
  applyTheme();
  const app = /** @type {HTMLElement} */ (document.getElementById("app"));
  app.replaceChildren(h("div", { class: "frame" }, side, h("div", null, silence, note, main)), toast);
  document.getElementById("skip")?.addEventListener("click", (e) => { e.preventDefault(); main.focus(); });
  addEventListener("hashchange", () => show(true));
  addEventListener("keydown", (e) => { if (e.key === "Escape" && side.classList.contains("open")) { openMenu(false); menuButton.focus(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  setInterval(sayNothing, 1000);
  while (true) {
    try { await look(); break; } catch {
      put(main, main.childElementCount ? null : h("p", { class: "empty" }, "Waiting for the gateway."));
      await new Promise((done) => setTimeout(done, 2000));
    }
  }
  show();
  poll(5000, glance, () => {}); // the banner says it
}

begin();
