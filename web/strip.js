// The health strip: one verdict, six facts, the worst first. Without news nothing here is green.
import { h, mark, say } from "./dom.js";
import { number, t } from "./i18n.js";
import { command } from "./ops-parts.js";
import { clock, heard, isStale, lastHeard, minute, now, onStatus, ops, when } from "./ops-state.js";
import { span } from "./view.js";

/** An unrecorded event that is older means that recording is behind. */
const BEHIND_MS = 5_000;
/** While entries wait, a consumer that has taken none for longer has no worker. */
const SILENT_MS = 5_000;
/** A server that has just started accepts claims before its workers connect. */
const ABSENT_STATUSES = 3;

/** Whether a consumer should have worked and has not. */
export const isSilent = (consumer, backlog) => consumer.idle_ms > SILENT_MS && (consumer.pending > 0 || backlog?.lag > 0);

let absent = 0;
onStatus(({ workers }) => { absent = workers === 0 ? absent + 1 : 0; });
/** Whether no worker is connected, for more than a moment. */
export const areAbsent = () => absent >= ABSENT_STATUSES;

/** The verdict about a status: { tone, words, why }. */
export function verdict(status) {
  const { fence, redis, postgres, backlog, consumers, drift, point } = status;
  if (fence?.state === "down") return bad(fence.reason);
  if (redis && redis.state !== "ok") return bad(`Redis: ${redis.state}`);
  if (!fence || !redis) return warn("vPartly", { what: [!fence && t("fence"), !redis && "Redis"].filter(Boolean).join(", ") });
  if (postgres && postgres.state !== "ok") return warn("vAway", { n: number(backlog?.allowed ?? 0), why: postgres.state });
  if (areAbsent()) return warn("vWorkers");
  if (backlog?.oldest_ms > BEHIND_MS) return warn("vBehind", { d: span(backlog.oldest_ms), r: point?.recorded == null ? "–" : number(point.recorded) });
  if (drift?.total) return warn("vDrift", { n: number(drift.total) });
  const missing = [!postgres && "Postgres", backlog?.events == null && t("backlog"), !consumers && t("workers")].filter(Boolean);
  if (missing.length) return warn("vPartly", { what: missing.join(", ") });
  return { tone: "ok", words: t("vGood"), why: t("vGoodWhy") };
}

const bad = (why) => ({ tone: "bad", words: t("vDown"), why: t("vDownWhy", { why: sentence(why ?? t("unknown")) }) });
const warn = (key, fill = {}) => ({ tone: "warn", words: t(key), why: t(`${key}Why`, fill) });
/** Begins with a capital letter and has no full stop, because words follow. */
const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1).replace(/[.。]$/, "");

/** The counter of an epoch such as `7-c0ffee12`. */
const counter = (epoch) => String(epoch).split("-")[0];

function facts({ fence, redis, postgres, backlog, drift, reclaim_after_ms: reclaim }) {
  const nothing = { big: "–", sub: t("unknown"), tone: "wait" };
  return {
    fence: !fence ? nothing : fence.state === "up"
      ? { big: t("up"), sub: fence.since ? t("epoch", { n: counter(fence.epoch), t: minute(fence.since) }) : t("epochOnly", { n: counter(fence.epoch) }), tone: "ok" }
      : { big: t("down"), sub: fence.since ? t("since", { t: when(fence.since) }) : "", tone: "bad" },
    Redis: !redis ? nothing : redis.state !== "ok" ? { big: t("trouble"), sub: redis.state, tone: "bad" }
      : { big: t("ok"), sub: redis.appendfsync_always == null ? t("unknown") : t(redis.appendfsync_always ? "always" : "notAlways"), tone: redis.appendfsync_always ? "ok" : "warn" },
    Postgres: !postgres ? nothing : postgres.state === "ok" ? { big: t("ok"), sub: t("recording"), tone: "ok" }
      : { big: t("noAnswer"), sub: postgres.away_since ? t("since", { t: when(postgres.away_since) }) : postgres.state, tone: "bad" },
    backlog: backlog?.events == null ? nothing : { big: number(backlog.events), sub: t("ofAllowed", { n: number(backlog.allowed) }), tone: backlog.events > backlog.allowed / 2 ? "warn" : "ok" },
    oldest: backlog?.oldest_ms == null ? nothing : { big: backlog.events ? span(backlog.oldest_ms) : t("none"), sub: reclaim ? t("reclaimAfter", { d: span(reclaim) }) : "", tone: backlog.oldest_ms > BEHIND_MS ? "warn" : "ok" },
    drift: !drift || !drift.compared_at ? { ...nothing, sub: t("notCompared") }
      : { big: number(drift.total), sub: t("compared", { d: span(Math.max(0, now() - Date.parse(drift.compared_at))) }), tone: drift.total ? "warn" : "ok" },
  };
}

let said = "";

export function strip() {
  const line = command("seckill redis-cli GET 'seckill:{0}:epoch'");
  if (!heard()) return [h("div", { class: "panel-body", "data-key": "reading" }, h("p", { class: "none" }, t("readingHealth"))), line];
  const stale = isStale();
  let { tone, words, why } = verdict(ops.status);
  if (stale) [tone, why, words] = ["warn", t("vUnknownWhy", { what: words }), t("vUnknown", { t: clock(lastHeard()) })];
  if (said && said !== words) say(t("verdictSaid", { words, why }));
  said = words;
  const cell = ([key, fact]) => h("div", { "data-tone": stale ? null : fact.tone },
    h("dt", {}, mark(stale ? "wait" : fact.tone), key === "Redis" || key === "Postgres" ? key : t(key)),
    h("dd", { class: "big" }, fact.big), h("dd", { class: "sub" }, fact.sub));
  return [
    h("dl", { class: "strip", "data-tone": tone, "data-key": "strip" },
      h("div", {}, h("dt", { class: "vh" }, t("health")), h("dd", { class: "verdict" }, mark(tone), words), h("dd", { class: "why" }, why)),
      ...Object.entries(facts(ops.status)).map(cell)),
    line,
  ];
}
