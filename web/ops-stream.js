// The admin's event stream, read with fetch because an EventSource sends no header. Reconnects with full jitter, resumes
// with Last-Event-ID, and is closed while the page is hidden.
import { authorization, refuse } from "./ops-session.js";
import { parser } from "./stream.js";

const PATH = "/v1/admin/events";
/** Longest pause between two tries. */
const PAUSE_MAX_S = 30;
/** The server sends an event each second: a connection that is silent for longer is dead. */
const SILENT_MS = 10_000;

/**
 * Follows the stream from `start` to `stop`. Calls `event(name, data)`, and `changed(link)` with
 * { phase: "connecting" | "live" | "waiting", retryAt, why }; `retryAt` is by `performance.now()`.
 */
export function follow({ event, changed }) {
  let running = false;
  let tries = 0;
  let lastId = "";
  let controller = null;
  let timer = 0;

  const set = (link) => { if (running) changed(link); };

  async function connect() {
    clearTimeout(timer);
    controller?.abort();
    if (!running || document.hidden) return;
    const mine = controller = new AbortController();
    set({ phase: "connecting" });
    const outcome = await listen(mine).catch(() => ({}));
    if (mine !== controller || !running || document.hidden) return;
    if (outcome.refused) return refuse();
    const most = Math.min(PAUSE_MAX_S, 2 ** tries);
    tries += 1;
    const pauseMs = ((outcome.retryAfter ?? 0) + Math.random() * most) * 1000;
    timer = setTimeout(connect, pauseMs);
    set({ phase: "waiting", retryAt: performance.now() + pauseMs, why: outcome.why, busy: outcome.busy });
  }

  async function listen(mine) {
    const headers = { authorization: authorization(), accept: "text/event-stream" };
    if (lastId) headers["last-event-id"] = lastId;
    let silent = setTimeout(() => mine.abort(), SILENT_MS);
    let live = false;
    try {
      const answer = await fetch(PATH, { headers, signal: mine.signal, cache: "no-store" });
      if (answer.status === 401) return { refused: true };
      if (!answer.ok) {
        const problem = await answer.json().catch(() => ({}));
        return { why: problem.detail, busy: answer.status === 503, retryAfter: Number(answer.headers.get("retry-after")) || 0 };
      }
      const parse = parser(({ name, data, id }) => {
        if (!live && name === "status") { live = true; tries = 0; set({ phase: "live" }); }
        event(name, data);
        if (id) lastId = id;
      });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done || mine !== controller) return {};
        clearTimeout(silent);
        silent = setTimeout(() => mine.abort(), SILENT_MS);
        parse(value);
      }
    } finally {
      clearTimeout(silent);
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (!running) return;
    clearTimeout(timer);
    if (document.hidden) controller?.abort();
    else { tries = 0; connect(); }
  });

  return {
    start() { running = true; tries = 0; lastId = ""; connect(); },
    stop() { running = false; clearTimeout(timer); controller?.abort(); controller = null; },
    /** Tries at once, without the rest of the pause. */
    tryNow() { connect(); },
  };
}
