// Asking the gateway.

/** What it answered, when that isn't 2xx; status 0: it didn't answer. */
export class ApiError extends Error {
  /** @param {number} status @param {string} text */
  constructor(status, text) { super(text); this.status = status; }
}

/** Who wants to know how asking goes. @type {{answered(): void, silent(): void, refused(): void}} */
export const watch = { answered() {}, silent() {}, refused() {} };

/**
 * @param {string} method
 * @param {string} path
 * @param {Record<string, any>} [query] what is "" or null is left out
 * @param {{body?: URLSearchParams, signal?: AbortSignal}} [more]
 */
async function ask(method, path, query = {}, more = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const url = given.length ? `${path}${path.includes("?") ? "&" : "?"}${new URLSearchParams(given.map(([k, v]) => [k, String(v)]))}` : path;
  const timeout = AbortSignal.timeout(20_000);
  let response, text;
  try {
    response = await fetch(url, { method, body: more.body, cache: "no-store", signal: more.signal ? AbortSignal.any([more.signal, timeout]) : timeout });
    text = await response.text();
  } catch (error) {
    if (more.signal?.aborted) throw error;
    watch.silent();
    throw new ApiError(0, "The gateway doesn't answer.");
  }
  watch.answered();
  if (response.status === 401 && path !== "/api/login") watch.refused();
  if (!response.ok) throw new ApiError(response.status, text.trim() || `${response.status}`);
  return { response, text };
}

/** The JSON of a GET. @param {string} path @param {Record<string, any>} [query] @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function get(path, query, signal) {
  return JSON.parse((await ask("GET", path, query, { signal })).text);
}

/** A part of a list, and how many there are. @param {string} path @param {Record<string, any>} [query] @param {AbortSignal} [signal] @returns {Promise<{rows: any[], count: number}>} */
export async function list(path, query, signal) {
  const { response, text } = await ask("GET", path, query, { signal });
  const rows = JSON.parse(text);
  return { rows, count: Number(response.headers.get("X-Total-Count") ?? rows.length) };
}

/** Changes something. @param {"POST" | "DELETE" | "PUT"} method @param {string} path @param {Record<string, any>} [query] */
export async function change(method, path, query) {
  const { text } = await ask(method, path, query);
  return text ? JSON.parse(text) : null;
}

/** Opens a session. @param {string} token */
export const login = (token) => ask("POST", "/api/login", {}, { body: new URLSearchParams({ token }) });
export const logout = () => ask("POST", "/api/logout");

/**
 * Calls load now, and again each time after every milliseconds, while the page is
 * seen. What load throws goes to failed.
 * @param {number} every
 * @param {(signal: AbortSignal) => Promise<void>} load
 * @param {(error: ApiError) => void} failed
 * @returns {{now(): void, stop(): void}}
 */
export function poll(every, load, failed) {
  let control = new AbortController(), timer = 0, stopped = false;
  async function turn() {
    clearTimeout(timer);
    control.abort();
    const mine = control = new AbortController();
    try {
      await load(mine.signal);
    } catch (error) {
      if (mine.signal.aborted) return;
      if (!(error instanceof ApiError)) reportError(error);
      else if (error.status) failed(error); // silence is told of in the frame
    }
    if (!stopped && mine === control && !document.hidden) timer = setTimeout(turn, every);
  }
  const seen = () => { if (!document.hidden && !stopped) turn(); };
  document.addEventListener("visibilitychange", seen);
  turn();
  return {
    now: turn,
    stop() {
      stopped = true;
      clearTimeout(timer);
      control.abort();
      document.removeEventListener("visibilitychange", seen);
    },
  };
}
