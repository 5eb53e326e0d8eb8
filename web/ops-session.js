// The admin token, kept in this tab, and the requests that carry it.
import { t } from "./i18n.js";

const KEY = "seckill-admin-token";
const REQUEST_TIMEOUT_MS = 20_000;

let token = stored();
let whenRefused = () => {};

// A browser may forbid storage; then the token lives as long as the page.
function stored() {
  try { return sessionStorage.getItem(KEY); } catch { return null; }
}

function store(value) {
  token = value;
  try {
    if (value == null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch { /* see `stored` */ }
}

export const signedIn = () => token != null;
export const authorization = () => `Bearer ${token}`;
export const signOut = () => store(null);
export const onRefused = (callback) => { whenRefused = callback; };

/** Ends the session, because the server no longer accepts the token. */
export function refuse() {
  if (token == null) return;
  store(null);
  whenRefused();
}

/** Why a request was not answered with 2xx. `status` is 0 without an answer. */
export class Problem extends Error {
  constructor({ status = 0, code = "", detail = "", request_id: id = "", retryAfter = 0 } = {}) {
    super(detail || code || t("noAnswerFrom"));
    Object.assign(this, { status, code, id, retryAfter });
  }
}

/** Sends a request as the admin; returns the body of the answer. Throws a `Problem`. */
export async function request(method, path, { body, ifMatch, timeoutMs = REQUEST_TIMEOUT_MS, as } = {}) {
  const headers = { authorization: as ? `Bearer ${as}` : authorization() };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (ifMatch != null) headers["if-match"] = ifMatch;
  let answer, text;
  try {
    const signal = timeoutMs ? AbortSignal.timeout(timeoutMs) : undefined;
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store", signal });
    text = await answer.text();
  } catch {
    throw new Problem();
  }
  let parsed = null;
  try { parsed = JSON.parse(text); } catch { /* an answer of another program, such as a proxy */ }
  if (answer.ok) return parsed;
  if (answer.status === 401 && !as) refuse();
  throw new Problem({ detail: `${answer.status}`, ...parsed, status: answer.status, retryAfter: Number(answer.headers.get("retry-after")) || 0 });
}

export const read = (path, more) => request("GET", path, more);

/** Signs in with a token. Returns why not, or null. */
export async function signIn(candidate) {
  // Only these characters can be sent in a header.
  if (!/^[\x21-\x7e]+$/.test(candidate)) return "tokenWrong";
  try {
    await read("/v1/admin/stream", { as: candidate });
  } catch (problem) {
    if (problem.status === 401) return "tokenWrong";
    if (!problem.status) return "tokenNoAnswer";
    // A server that starts, or without its stores, cannot check the token yet: the page shows its state.
  }
  store(candidate);
  return null;
}
