import { list } from "../api.js";
import { badge, h, put } from "../dom.js";
import { known, moment, when } from "../format.js";
import { table } from "../table.js";

const week = 7 * 86400_000;

/** Certificates, with when they end and what went wrong. @param {import("../main.js").Context} c */
export function certificates(c) {
  const t = table({
    name: "certificates", sort: "ends", every: 10_000, hint: "Name, issuer or error", none: "No certificates: nothing here speaks TLS yet.",
    load: (query, signal) => list("/api/certificates", query, signal),
    columns: [
      { title: "Names", sort: "name", wide: true, cell: (k) => k.names?.join(", ") },
      { title: "State", cell: state },
      { title: "Ends", sort: "ends", cell: (k) => known(k.not_after) ? moment(k.not_after) : "none yet" },
      { title: "Renewed", cell: (k) => known(k.renew_at) ? when(k.renew_at) : "–" },
      { title: "From", sort: "source", wide: true, cell: (k) => [k.source, h("span", { class: "two" }, k.file || k.issuer || "")] },
      { title: "Last error", wide: true, cell: (k) => k.error ? [k.error, h("span", { class: "two" }, when(k.error_at), known(k.next_try) ? ", next try " : "", known(k.next_try) ? when(k.next_try) : "")] : "none" },
    ],
  });
  c.leave(t.stop);
  put(c.main, h("div", { class: "top" }, h("h1", null, "Certificates")), h("div", { class: "card" }, t.element));
}

/** @param {any} k */
function state(k) {
  if (!known(k.not_after)) return k.error ? badge("bad", "none, error") : badge("warn", "none yet");
  const left = new Date(k.not_after).getTime() - Date.now();
  if (left < 0) return badge("bad", "over");
  if (k.error) return badge(left < week ? "bad" : "warn", "error");
  return left < week && k.source !== "local" ? badge("warn", "ends soon") : badge("good", "good");
}
