// Making elements. Text is always text: nothing here reads a string as HTML.

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Makes an element. Properties that are functions are listeners ("onclick"), others
 * are attributes; false, null and undefined leave them out.
 * @param {string} tag
 * @param {Record<string, any> | null} [props]
 * @param {...(Child | Child[])} children
 * @returns {any}
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  put(element, ...children);
  return element;
}

/**
 * Appends children.
 * @param {Element} to
 * @param {...(Child | Child[])} children
 */
export function put(to, ...children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) to.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Puts children in the place of what is there, unless it looks the same: what is
 * unchanged keeps its focus and selection.
 * @param {Element} to
 * @param {...(Child | Child[])} children
 */
export function set(to, ...children) {
  const next = document.createElement(to.tagName);
  put(next, ...children);
  const had = to.childNodes, now = [...next.childNodes];
  if (had.length === now.length) {
    now.forEach((node, i) => { if (!had[i].isEqualNode(node)) had[i].replaceWith(node); });
    return;
  }
  to.replaceChildren(...now);
}

/** An address within the page. @param {...string} parts */
export const to = (...parts) => "#/" + parts.map(encodeURIComponent).join("/");

/** A link within the page. @param {string} text @param {...string} parts */
export const link = (text, ...parts) => h("a", { href: to(...parts) }, text);

/** A label with a colour and, for those who don't see it, a sign. @param {"good"|"warn"|"bad"|"idle"} kind @param {string} text */
export function badge(kind, text) {
  return h("span", { class: `badge ${kind}` }, h("span", { class: "sign", "aria-hidden": "true" }, { good: "●", warn: "▲", bad: "■", idle: "○" }[kind]), text);
}

/** 1 instance, 2 instances. @param {number} n @param {string} what */
export const many = (n, what) => `${n.toLocaleString("en-US")} ${what}${n === 1 ? "" : "s"}`;

/** Terms and what they are. @param {[string, Child | Child[]][]} list */
export function terms(list) {
  return h("dl", { class: "terms" }, list.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, /** @type {any} */ (value)))));
}

/** A box with a heading. @param {string} title @param {Child | Child[]} aside @param {...Child} children */
export function card(title, aside, ...children) {
  return h("section", { class: "card" }, h("header", null, h("h2", null, title), h("div", { class: "aside" }, /** @type {any} */ (aside))), ...children);
}

/** What is said where there is nothing. @param {string} text @param {...Child} more */
export const empty = (text, ...more) => h("p", { class: "empty" }, text, ...more);
