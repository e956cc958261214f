// Tables whose rows the gateway sorts, filters and parts: however many there are,
// there are never more than a page of them here.
import { empty, h, set } from "./dom.js";
import { count } from "./format.js";
import { poll } from "./api.js";

const pageSize = 50;

/**
 * @typedef {Object} Column
 * @property {string} title
 * @property {(row: any) => any} cell
 * @property {string} [sort] what the gateway calls it
 * @property {boolean} [num] a number: to the right
 * @property {boolean} [wide] may break anywhere
 */

/** The rows of a table, cell by cell, so that what is unchanged stays. @param {Element} body @param {Column[]} columns @param {any[]} rows @param {(row: any) => string} [mark] */
export function fill(body, columns, rows, mark) {
  rows.forEach((row, i) => {
    const next = h("tr", { class: mark?.(row) || null }, columns.map((c) => {
      const value = c.cell(row);
      return h("td", { class: [c.num && "num", c.wide && "wide"].filter(Boolean).join(" ") || null, "data-label": c.title }, h("div", null, value === "" || value == null ? "–" : value));
    }));
    const had = body.children[i];
    if (!had) body.append(next);
    else if (had.className !== next.className || had.children.length !== next.children.length) had.replaceWith(next);
    else [...next.children].forEach((cell, k) => { if (!had.children[k].isEqualNode(cell)) had.children[k].replaceWith(cell); });
  });
  while (body.children.length > rows.length) body.lastElementChild?.remove();
}

/** A table of rows that are all here. @param {string} name @param {Column[]} columns @param {any[]} rows @param {(row: any) => string} [mark] */
export function plain(name, columns, rows, mark) {
  const body = h("tbody");
  fill(body, columns, rows, mark);
  return h("div", { class: "table" }, h("table", null, h("caption", { class: "hidden" }, name),
    h("thead", null, h("tr", null, columns.map((c) => h("th", { scope: "col", class: c.num ? "num" : null }, c.title)))), body));
}

/**
 * A table of a list of the gateway.
 * @param {Object} o
 * @param {string} o.name what its rows are, in the plural
 * @param {Column[]} o.columns
 * @param {(query: Record<string, any>, signal: AbortSignal) => Promise<{rows: any[], count: number}>} o.load
 * @param {string} [o.sort] column to begin with
 * @param {boolean} [o.desc]
 * @param {number} [o.every] milliseconds
 * @param {boolean} [o.filter] a field for text; default true
 * @param {string} [o.hint] in that field
 * @param {any} [o.none] what to say when there are no rows
 * @param {any[]} [o.controls] beside the filter
 * @param {(row: any) => string} [o.mark] a row's class
 * @returns {{element: HTMLElement, stop(): void, now(): void}}
 */
export function table(o) {
  const state = { q: "", sort: o.sort ?? "", desc: Boolean(o.desc), offset: 0 };
  const body = h("tbody"), foot = h("div", { class: "pager" }), said = h("div", { role: "status", class: "said" });
  const heads = o.columns.map((c) => {
    const th = h("th", { scope: "col", class: c.num ? "num" : null });
    th.append(c.sort ? h("button", { type: "button", class: "sort", onclick: () => order(c) }, c.title, h("span", { class: "arrow", "aria-hidden": "true" })) : c.title);
    return th;
  });
  const filter = h("input", { type: "search", placeholder: o.hint ?? "Filter", "aria-label": `Filter the ${o.name}`, autocomplete: "off", spellcheck: "false", maxlength: 200 });
  let typing = 0;
  filter.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { state.q = filter.value.trim(); state.offset = 0; polling.now(); }, 200);
  });
  const nothing = h("div");
  const grid = h("div", { class: "table" }, h("table", null, h("caption", { class: "hidden" }, o.name), h("thead", null, h("tr", null, heads)), body));
  const bar = o.filter === false && !o.controls ? null : h("div", { class: "bar" }, o.filter === false ? null : filter, o.controls ?? null);
  const element = h("div", { class: "listing" }, bar, said, grid, nothing, foot);

  /** @param {Column} c */
  function order(c) {
    state.desc = state.sort === c.sort ? !state.desc : Boolean(c.num);
    state.sort = c.sort ?? "";
    state.offset = 0;
    arrows();
    polling.now();
  }
  function arrows() {
    o.columns.forEach((c, i) => {
      if (!c.sort) return;
      const on = c.sort === state.sort;
      if (on) heads[i].setAttribute("aria-sort", state.desc ? "descending" : "ascending");
      else heads[i].removeAttribute("aria-sort");
      heads[i].querySelector(".arrow").textContent = on ? (state.desc ? "▼" : "▲") : "";
    });
  }
  /** @param {number} offset */
  const turn = (offset) => () => { state.offset = offset; polling.now(); };

  arrows();
  const polling = poll(o.every ?? 5000, async (signal) => {
    const query = { q: state.q, sort: state.sort, order: state.sort && state.desc ? "desc" : "", offset: state.offset || "", limit: pageSize };
    const { rows, count: all } = await o.load(query, signal);
    if (!rows.length && state.offset) { state.offset = 0; return polling.now(); }
    fill(body, o.columns, rows, o.mark);
    grid.hidden = !rows.length;
    set(nothing, rows.length ? null : empty(state.q ? `None of the ${o.name} has “${state.q}”.` : "", state.q ? null : o.none ?? `No ${o.name}.`));
    const last = state.offset + rows.length;
    set(foot, all > rows.length ? [
      h("button", { type: "button", disabled: state.offset === 0, onclick: turn(Math.max(0, state.offset - pageSize)) }, "‹ Before"),
      h("span", { class: "muted" }, `${count(state.offset + 1)} to ${count(last)} of ${count(all)}`),
      h("button", { type: "button", disabled: last >= all, onclick: turn(last) }, "After ›"),
    ] : rows.length > 5 ? h("span", { class: "muted" }, `${count(all)} ${o.name}`) : null);
    set(said);
  }, (error) => set(said, h("p", { class: "error" }, error.message)));
  return { element, stop: polling.stop, now: polling.now };
}
