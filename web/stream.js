// One event stream: read with fetch, because EventSource cannot see a 503 and its Retry-After. Closed while the page is
// hidden, opened again after a loss, and honest about how old the figures are.
import { sleep } from "./api.js";

/** Without `current` for this long the figures are old; ms. The server sends it every 2 s. */
const STALE_AFTER = 5000;
/** Without a byte for this long the connection is dead although nothing has closed it; ms. */
const DEAD_AFTER = 10_000;
/** Longest pause between two attempts; s. */
const LONGEST_PAUSE = 30;
/** For a page that is looked at again; ms. */
const GRACE = 1000;

/**
 * Follows the stream at `url`. `on.event(name, data, gotAt)` gets each event; `on.state({ fresh, connected, problem, retryAt })`
 * is told of each change. Returns { now(): try at once }.
 */
export function follow(url, on) {
  const state = { fresh: false, connected: false, problem: null, retryAt: null };
  let lastId = null;
  let failures = 0;
  let lastCurrent = -Infinity;
  let attempt = null;
  let wake = () => {};

  const tell = (changes) => {
    if (Object.keys(changes).every((key) => state[key] === changes[key])) return;
    Object.assign(state, changes);
    on.state(state);
  };

  const take = (event) => {
    if (event.id) lastId = event.id;
    if (event.name === "current") {
      lastCurrent = performance.now();
      failures = 0;
    }
    if (event.name === "stale") lastCurrent = -Infinity;
    on.event(event.name, event.data, performance.now());
    tell({ fresh: performance.now() - lastCurrent < STALE_AFTER, problem: event.name === "stale" ? event.data.why : null });
  };

  /** Reads until the stream ends, which it does with a reason or without. */
  const read = async (signal, alive) => {
    const headers = { accept: "text/event-stream", ...(lastId && { "last-event-id": lastId }) };
    const response = await fetch(url, { headers, cache: "no-store", signal });
    if (!response.ok) {
      const body = await response.json().catch(() => null);
      return { status: response.status, code: body?.code ?? "", detail: body?.detail ?? "", retryAfter: Number(response.headers.get("retry-after")) || 0 };
    }
    tell({ connected: true, retryAt: null });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parse = parser(take);
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return { status: 200 };
      alive();
      parse(value);
    }
  };

  const connect = async () => {
    attempt = new AbortController();
    const { signal } = attempt;
    let timer = null;
    const alive = () => { clearTimeout(timer); timer = setTimeout(() => attempt.abort(), DEAD_AFTER); };
    alive();
    try {
      return await read(signal, alive);
    } catch {
      return { status: 0 };
    } finally {
      clearTimeout(timer);
    }
  };

  const run = async () => {
    for (;;) {
      if (document.hidden) await new Promise((done) => { wake = done; });
      const end = await connect();
      tell({ connected: false });
      if (document.hidden) continue;
      await on.refused?.(end);
      // Full jitter: pages that lost the same server do not come back at the same moment.
      const most = Math.min(LONGEST_PAUSE, 2 ** failures);
      failures += 1;
      const ms = 1000 * Math.max(end.retryAfter ?? 0, Math.random() * most);
      tell({ retryAt: performance.now() + ms, problem: end.detail || null });
      await Promise.race([sleep(ms), new Promise((done) => { wake = done; })]);
    }
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) attempt?.abort();
    else {
      failures = 0;
      // A moment to connect again before the figures turn grey.
      lastCurrent = Math.max(lastCurrent, performance.now() - STALE_AFTER + GRACE);
      wake();
    }
  });
  setInterval(() => {
    if (!document.hidden && performance.now() - lastCurrent >= STALE_AFTER) tell({ fresh: false });
  }, 250);
  run();
  return { now: () => { failures = 0; wake(); } };
}

/** Cuts the text of a stream into events: { name, data, id }. */
export function parser(take) {
  let rest = "";
  return (text) => {
    const blocks = (rest + text).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { name: "message", data: "", id: "" };
      for (const line of block.split(/\r?\n/)) {
        const [, field, value] = /^(\w+):? ?(.*)$/.exec(line) ?? [];
        if (field === "event") event.name = value;
        else if (field === "data") event.data += value;
        else if (field === "id") event.id = value;
      }
      if (event.data) take({ ...event, data: JSON.parse(event.data) });
    }
  };
}
