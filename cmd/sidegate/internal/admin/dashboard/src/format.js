// Figures for people: short, with their unit, each in one way.
import { h } from "./dom.js";

const minus = (/** @type {string} */ text) => text.replace("-", "\u2212");

/** 1234567 is 1,234,567. @param {number} n */
export const count = (n) => minus(Math.round(n).toLocaleString("en-US"));

/** Three digits, and k, M, G: 1234567 is 1.23 M. @param {number} n */
export function short(n) {
  for (const [unit, size] of /** @type {[string, number][]} */ ([["G", 1e9], ["M", 1e6], ["k", 1e3]])) {
    if (n >= size * 0.9995) return `${digits(n / size)} ${unit}`;
  }
  return digits(n);
}

/** @param {number} n */
function digits(n) {
  if (n === 0) return "0";
  if (n >= 99.95) return n.toFixed(0);
  return n >= 9.995 ? n.toFixed(1).replace(/\.0$/, "") : n.toFixed(2).replace(/\.?0+$/, "") || "0";
}

/** A number a second. @param {number} n */
export const rate = (n) => (n > 0 && n < 0.01 ? "< 0.01" : short(n)) + "/s";

/** @param {number} n */
export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0;
  for (; n >= 1023.5 && i < units.length - 1; i++) n /= 1024;
  return `${i === 0 ? Math.round(n) : digits(n)} ${units[i]}`;
}

/** A time that something took. @param {number | null | undefined} seconds */
export function took(seconds) {
  if (!seconds) return "–";
  if (seconds < 0.001) return `${digits(seconds * 1e6)} µs`;
  if (seconds < 1) return `${digits(seconds * 1e3)} ms`;
  return `${digits(seconds)} s`;
}

/** A time that passes: 3 d 4 h. @param {number} seconds */
export function lasting(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ""}`.trim();
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60 ? `${Math.floor(s / 60) % 60} min` : ""}`.trim();
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24 ? `${Math.floor(s / 3600) % 24} h` : ""}`.trim();
}

/** A share in percent. @param {number} part @param {number} whole */
export function share(part, whole) {
  if (!whole) return "–";
  const p = 100 * part / whole;
  return p > 0 && p < 0.01 ? "< 0.01 %" : `${digits(p)} %`;
}

/** Whether a time of Go's is set. @param {string | undefined} text */
export const known = (text) => Boolean(text) && !text?.startsWith("0001-");

const pad = (/** @type {number} */ n) => String(n).padStart(2, "0");

/** Local date and time. @param {Date} d */
export const local = (d) => `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${clock(d)}`;

/** Local time of day. @param {Date} d */
export const clock = (d) => `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;

/** How far a moment is, with the moment itself to be read. @param {string | undefined} text @param {string} [never] */
export function when(text, never = "never") {
  if (!known(text)) return never;
  const d = new Date(/** @type {string} */ (text));
  const away = (d.getTime() - Date.now()) / 1000;
  const rough = lasting(Math.abs(away)).replace(/ (\d+ s)$/, "");
  return h("time", { datetime: text, title: `${local(d)} (${d.toISOString()})` }, away > 0 ? `in ${rough}` : `${rough} ago`);
}

/** A moment, with how far it is. @param {string | undefined} text */
export function moment(text) {
  if (!known(text)) return "–";
  const d = new Date(/** @type {string} */ (text));
  return h("span", null, h("span", { class: "nowrap" }, local(d)), " ", h("span", { class: "muted nowrap" }, "(", when(text), ")"));
}
