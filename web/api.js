// Requests to the API: JSON in and out, problems as values, and retries that make no crowd.

/** No answer within this time is taken as lost; ms. */
const PATIENCE = 15_000;
export const TRIES = 6;

/**
 * Sends one request. Never throws: { ok, status, code, body, retryAfter, sentAt, gotAt }.
 * `status` is 0 and `code` "no-answer" where no answer came, so that it is unknown whether the request was done.
 */
export async function ask(method, path, { token, key, body, headers = {}, patience = PATIENCE } = {}) {
  const send = { ...headers };
  if (token) send.authorization = `Bearer ${token}`;
  if (key) send["idempotency-key"] = key;
  if (body) send["content-type"] = "application/json";
  const sentAt = performance.now();
  try {
    const response = await fetch(path, {
      method, headers: send, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(patience),
    });
    const text = await response.text();
    const answer = parsed(text);
    return {
      ok: response.ok, status: response.status, body: answer, code: answer?.code ?? "", detail: answer?.detail ?? "",
      retryAfter: Number(response.headers.get("retry-after") ?? 1) || 0, sentAt, gotAt: performance.now(),
    };
  } catch {
    return { ok: false, status: 0, code: "no-answer", detail: "", body: null, retryAfter: 1, sentAt, gotAt: performance.now() };
  }
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return null; }
}

/** Whether the same request may have another answer soon. */
export const isPassing = (answer) => answer.status === 0 || answer.status === 503 || answer.status === 502 || answer.status === 504;

/** What the server asks for, and a random share of 1, 2, 4, 8 s on top, so that clients do not come back together; ms. */
export const pause = (answer, tries) => 1000 * (answer.retryAfter + Math.random() * Math.min(8, 2 ** (tries - 1)));

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Sends a request again while the server is busy or away. `waiting(tries, ms)` is told of each pause. */
export async function askPatiently(method, path, options = {}, { tries = TRIES, waiting } = {}) {
  for (let i = 1; ; i += 1) {
    const answer = await ask(method, path, options);
    if (!isPassing(answer) || i >= tries) return answer;
    const ms = pause(answer, i);
    waiting?.(i, ms, answer);
    await sleep(ms);
  }
}

/** A name for one claim. randomUUID is missing where a page came without TLS. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
