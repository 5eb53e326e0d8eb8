// Reconciling: compares the two stores while claims go on, names every difference, and repairs on the admin's order.
import { h, mark, say } from "./dom.js";
import { hasText, number, t } from "./i18n.js";
import { titleOf } from "./ops-coupons.js";
import { ask } from "./ops-dialogs.js";
import { act, actions, banner, none, panel, problemWords, repaint, table } from "./ops-parts.js";
import { heard, isStale, now, ops } from "./ops-state.js";
import { request } from "./ops-session.js";
import { span } from "./view.js";

/** The counts of a report, with the kind that names each difference. */
const KINDS = [["lost_events", "lost_event"], ["missed_releases", "missed_release"], ["missing_claims", "missing_claim"], ["foreign_fields", "foreign_field"], ["stock_drift", "stock_drift"], ["definition_drift", "definition"], ["waitlist_drift", "waitlist"]];

let report = null;
let rebuilt = null;
let problem = null;
let running = false;
let paintAll = () => {};

const kindWords = (kind) => (hasText(`k_${kind}`) ? t(`k_${kind}`) : kind);
const total = (found) => KINDS.reduce((sum, [name]) => sum + (found[name] ?? 0), 0);

const send = (body) => request("POST", "/v1/admin/reconcile", { body, timeoutMs: 0 });

async function compare() {
  if (running) return;
  [running, problem] = [true, null];
  paintAll();
  try {
    [report, rebuilt] = [await send({ fix: false }), null];
    say(summary(report));
  } catch (failure) {
    if (failure.status === undefined) throw failure;
    problem = failure;
  }
  running = false;
  paintAll();
}

function summary(found) {
  const fill = { claims: number(found.claims), coupons: number(found.coupons), n: number(total(found)) };
  return [
    t(total(found) ? "differs" : "agreed", fill), found.fixed > 0 && t("fixedN", { n: number(found.fixed) }),
    found.in_flight > 0 && t("inFlight", { n: number(found.in_flight) }), found.fenced && t("fencedN"),
    found.named?.length < total(found) && t("namedMore", { n: number(found.named.length) }),
  ].filter(Boolean).join(" ");
}

const what = (row) => (row.order ? h("span", {}, row.user && `${row.user} `, h("code", {}, row.order)) : (row.fields ?? []).map((f) => `${f.field}: Postgres ${f.postgres}, Redis ${f.redis ?? "–"}`).join("; ") || "–");

/** What the program itself found last. */
function last() {
  const drift = ops.status?.drift;
  if (!drift?.compared_at || !drift.total) return t("compareNever");
  const kinds = Object.entries(drift.kinds ?? {}).filter(([, n]) => n).map(([kind, n]) => `${kindWords(kind)}: ${number(n)}`);
  return t("lastDrift", { d: span(Math.max(0, now() - Date.parse(drift.compared_at))), n: number(drift.total), kinds: kinds.join(", ") });
}

function body() {
  const failed = problem && banner("bad", problemWords(problem));
  if (rebuilt) return [failed, h("p", { class: "result" }, mark("ok"), t("rebuilt", { e: rebuilt.epoch, claims: number(rebuilt.claims), coupons: number(rebuilt.coupons), changed: number(rebuilt.changed), resent: number(rebuilt.resent), rejected: number(rebuilt.rejected) })), h("p", { class: "quiet" }, t("rebuiltMore"))];
  if (!report) return [failed, none(last())];
  const tone = isStale() ? "wait" : total(report) > (report.fixed ?? 0) || report.fenced ? "warn" : "ok";
  return [
    failed,
    h("p", { class: "result" }, mark(tone), summary(report)),
    report.deleted_entries > 0 && h("p", { class: "quiet" }, `${kindWords("deleted_entry")}: ${number(report.deleted_entries)}`),
    report.named?.length ? table(t("reconcile"), [{ key: "cKind", wide: true, label: false }, { key: "cCoupon" }, { key: "cWhat", wide: true }], report.named.map((row, i) => ({
      key: `${row.kind} ${row.coupon} ${row.order ?? i}`,
      cells: [kindWords(row.kind), h("span", {}, titleOf(row.coupon), h("span", { class: "id" }, row.coupon)), what(row)],
    }))) : null,
  ].filter(Boolean);
}

/** The panel: { node, paint }; `changed` is called after each repair. */
export function reconcilePanel(changed) {
  const draw = () => panel("reconcile", t("reconcile"), {
    sub: t("reconcileSub"),
    end: [
      report && total(report) > (report.fixed ?? 0) && act("fix", "fix"),
      act("rebuild", "rebuild", { "data-kind": "bad" }),
      act("compare", running ? "comparing" : "compareNow", { "aria-disabled": (running || !heard()) && "true" }),
    ],
    body: body().filter(Boolean),
    line: rebuilt ? "seckill reconcile --rebuild" : "seckill reconcile",
  });
  const node = draw();
  const paint = () => repaint(node, draw());
  paintAll = paint;
  const repaired = (take) => (answer) => { take(answer); problem = null; paint(); changed(); };
  actions(node, {
    compare,
    fix: () => ask({
      title: t("dFix", { n: number(total(report)) }), effects: [t("dFix1"), t("dFix2"), t("dFix3"), t("dFix4")], go: t("dFixDo"),
      send: () => send({ fix: true }), done: repaired((answer) => { [report, rebuilt] = [answer, null]; }),
    }),
    rebuild: () => ask({
      title: t("dRebuild"), effects: [t("dRebuild1"), t("dRebuild2"), t("dRebuild3")], go: t("dRebuildDo"), kind: "bad",
      send: () => send({ rebuild: true }), done: repaired((answer) => { [report, rebuilt] = [null, answer]; }),
    }),
  });
  return { node, paint };
}
