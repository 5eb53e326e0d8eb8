// The coupons: the admin's list in pages, with stock and state from the stream.
import { h, mark } from "./dom.js";
import { number, t } from "./i18n.js";
import { createCoupon, editCoupon, pauseCoupon, resumeCoupon, restockCoupon, withdrawUnits } from "./ops-coupon-dialogs.js";
import { act, actions, none, Pages, panel, repaint, showMore, table } from "./ops-parts.js";
import { isStale, onStatus, ops, when } from "./ops-state.js";
import { showReceipt } from "./ops-receipt.js";
import { showLine } from "./ops-waitlist.js";

const PAGE_ROWS = 20;
/** The counts of orders are not in the stream. */
const COUNTS_AGE_MS = 2_000;
const IDLE_AGE_MS = 15_000;
const TONE = { open: "ok", paused: "warn", scheduled: "wait", sold_out: "", ended: "" };

const list = new Pages(() => "/v1/admin/coupons", PAGE_ROWS, () => paintAll());
let paintAll = () => {};
let seen = "";

/** A coupon by its id, as the page knows it. */
export const coupon = (id) => fresh(list.rows?.find((row) => row.id === id)) ?? ops.status?.coupons?.find((row) => row.id === id);
export const titleOf = (id) => coupon(id)?.title ?? id;
export const refreshCoupons = () => list.refresh();

/** A row with the newest stock and state. */
function fresh(row) {
  const live = row && ops.status?.coupons?.find((other) => other.id === row.id);
  return live ? { ...row, stock: live.stock, total: live.total, state: live.state, waiting: live.waiting } : row;
}

onStatus(({ coupons, backlog, point }) => {
  const shape = JSON.stringify([coupons?.map(({ id, title, total, stock, state }) => [id, title, total, stock, state]), backlog?.events, point?.recorded]);
  if (list.keep(shape === seen ? IDLE_AGE_MS : COUNTS_AGE_MS)) seen = shape;
});

function state(row) {
  const words = row.state === "scheduled" ? t("opens", { t: when(row.starts_at) }) : t(row.state);
  const off = row.not_in_force?.length && t("notInForce", { f: row.not_in_force.map((difference) => difference.field).join(", ") });
  return [
    h("span", { class: "state" }, mark(isStale() ? "wait" : TONE[row.state]), words),
    row.unlisted && h("span", { class: "id" }, t("unlistedMark")),
    off && h("span", { class: "state warned" }, mark("warn"), off),
  ];
}

const count = (n) => (n == null ? "–" : number(n));

function cells(row) {
  const { id, title } = row;
  return [
    [h("span", { class: "name" }, title), h("span", { class: "id" }, id)],
    state(row),
    h("span", {}, h("b", {}, number(row.stock)), " ", h("span", { class: "quiet nowrap" }, t("ofTotal", { total: number(row.total) }))),
    count(row.accepted), count(row.reserved), count(row.confirmed), count(row.returned),
    row.waitlist ? h("button", { type: "button", class: "link", "data-act": "line", "data-of": id }, t("inLine", { n: number(row.waiting ?? 0) }), h("span", { class: "vh" }, `: ${title}`)) : "–",
    h("button", { type: "button", class: "link", "data-act": "receipt", "data-of": id }, t("receipt"), h("span", { class: "vh" }, `: ${title}`)),
    h("div", { class: "acts" },
      row.paused ? act("resume", "resume", { of: id, about: title }) : act("pause", "pause", { of: id, about: title }),
      act("restock", "restock", { of: id, about: title }),
      act("withdraw", "withdraw", { of: id, about: title }),
      act("edit", "edit", { of: id, about: title })),
  ];
}

const COLUMNS = [
  { key: "cCoupon", wide: true, label: false }, { key: "cState" }, { key: "cLeft", n: true }, { key: "accepted", n: true }, { key: "reserved", n: true },
  { key: "confirmed", n: true }, { key: "cReturned", n: true }, { key: "cWaiting", n: true }, { key: "cReceipt" }, { key: "cDo", hide: true, wide: true, label: false },
];

/** The panel: { node, paint }; `changed` is called after each action. */
export function couponsPanel(changed) {
  const draw = () => panel("coupons", t("couponsTable"), {
    end: act("create", "create", { "data-kind": "go" }),
    body: list.body(
      (rows) => table(t("couponsTable"), COLUMNS, rows.map((row) => ({ key: row.id, cells: cells(fresh(row)) }))),
      () => none(h("b", {}, t("noCoupons")), " ", t("noCouponsHint"))),
    line: list.rows?.length ? "seckill psql -c 'select id, title, total, stock, paused from coupons order by id'" : "seckill coupon create coffee --total 100",
  });
  const node = draw();
  const paint = () => repaint(node, draw());
  paintAll = paint;
  const open = (show) => (id) => { const row = coupon(id); if (row) show(row, changed); };
  actions(node, {
    create: () => createCoupon(changed),
    pause: open(pauseCoupon), resume: open(resumeCoupon), restock: open(restockCoupon), withdraw: open(withdrawUnits), edit: open(editCoupon),
    receipt: open(showReceipt), line: open(showLine),
    more: () => showMore(list, node),
  });
  return { node, paint };
}
