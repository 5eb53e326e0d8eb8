// Orders looked up by user, id, state or coupon, with what happened to each and what an admin can do with it.
import { h, mark } from "./dom.js";
import { t } from "./i18n.js";
import { titleOf } from "./ops-coupons.js";
import { cancelOrder, confirmOrder, revokeOrder } from "./ops-order-dialogs.js";
import { act, actions, literal, none, Pages, panel, psql, repaint, showCommand, showMore } from "./ops-parts.js";
import { isStale, onStatus } from "./ops-state.js";
import { read } from "./ops-session.js";
import { timeline } from "./ops-timeline.js";

const PAGE_ROWS = 20;
const AGE_MS = 5_000;
const STATES = ["reserved", "confirmed", "cancelled", "expired", "rejected"];
const TONE = { accepted: "go", reserved: "wait", confirmed: "ok", cancelled: "", expired: "warn", rejected: "bad" };
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

export const stateWords = (status) => t(status === "cancelled" ? "oCancelled" : status);

/** What is looked for; null before the first search. */
let query = null;
let picked = null;
/** Rows of the audit log about the picked order. */
let log = { order: null, rows: [] };
let paintAll = () => {};

const list = new Pages(path, PAGE_ROWS, () => { pick(); paintAll(); readLog(); });

function path() {
  if (UUID.test(query.words)) return `/v1/orders/${query.words.toLowerCase()}`;
  const fields = Object.entries({ user: query.words, status: query.status, coupon: query.coupon }).filter(([, value]) => value);
  return `/v1/admin/orders?${new URLSearchParams(fields)}`;
}

function pick() {
  if (!list.rows?.some((order) => order.order === picked)) picked = list.rows?.[0]?.order ?? null;
}

async function readLog() {
  const order = picked;
  if (!order) return;
  try {
    const { items } = await read(`/v1/admin/audit?order=${order}&limit=50`);
    if (picked === order) { log = { order, rows: items }; paintAll(); }
  } catch { /* the order itself is shown without it */ }
}

// Also without a hit: an order is found as soon as it is recorded.
onStatus(() => { if (query) list.keep(AGE_MS); });

function line() {
  const columns = "select id, coupon_id, user_id, status, claimed_at, recorded_at from orders";
  if (!query) return psql(`${columns} order by id desc limit 20`);
  if (UUID.test(query.words)) return psql(`${columns} where id = ${literal(query.words.toLowerCase())}`);
  const parts = Object.entries({ user_id: query.words, status: query.status, coupon_id: query.coupon }).filter(([, value]) => value).map(([name, value]) => `${name} = ${literal(value)}`);
  return psql(`${columns} where ${parts.join(" and ")} order by id desc limit 20`);
}

function hit(order) {
  return h("li", { "data-key": order.order }, h("button", { type: "button", "data-act": "pick", "data-of": order.order, "aria-current": order.order === picked && "true" },
    h("span", {}, titleOf(order.coupon), order.user !== query.words && h("span", { class: "quiet" }, ` · ${order.user}`)),
    h("span", { class: "state" }, mark(isStale() ? "wait" : TONE[order.status]), stateWords(order.status)),
    h("code", {}, order.order)));
}

function orderActions(order) {
  const about = order.order;
  const live = order.status === "reserved" ? [act("confirm", "confirm", { of: about, about, "data-kind": "go" }), act("cancel", "cancelOrder", { of: about, about })]
    : order.status === "confirmed" ? [act("revoke", "revoke", { of: about, about, "data-kind": "bad" })] : [];
  return live.length ? h("div", { class: "order-acts" }, live) : h("p", { class: "quiet" }, t("orderEnded"));
}

function found(orders) {
  const order = orders.find((row) => row.order === picked) ?? orders[0];
  const title = query.words && !UUID.test(query.words) ? t("foundOf", { u: query.words }) : t("foundAll");
  return h("div", { class: "found" },
    h("div", {}, h("p", { class: "quiet" }, title, orders.length > 1 ? ` · ${t("newestFirst")}` : ""), h("ul", { class: "hits" }, orders.map(hit))),
    h("div", { class: "one" }, h("h3", { class: "vh" }, t("tlTitle")), timeline(order, log.order === order.order ? log.rows : []), order.status === "accepted" ? null : orderActions(order)));
}

function body() {
  if (!query) return none(t("lookupNone"));
  const { problem } = list;
  if (problem?.code === "order-lost") return none(t("orderLost"));
  if (problem?.status === 404) return none(t("noOrders", { q: query.words }));
  if (problem?.code === "not-recorded-yet") return none(h("span", { class: "state" }, mark("go"), t("notRecorded")));
  return list.body(found, () => none(query.words ? t("noOrders", { q: query.words }) : t("noSuchOrders")));
}

/** The panel: { node, paint }; `changed` is called after each action. */
export function ordersPanel(changed) {
  const words = h("input", { class: "input", id: "q", type: "search", spellcheck: "false", autocomplete: "off", autocapitalize: "off", "aria-describedby": "q-hint", value: query?.words });
  const status = h("select", { class: "input", id: "q-status" }, ["", ...STATES].map((name) => h("option", { value: name, selected: name === (query?.status ?? "") }, name ? stateWords(name) : t("anyState"))));
  const of = h("input", { class: "input", id: "q-coupon", type: "text", spellcheck: "false", autocomplete: "off", autocapitalize: "off", value: query?.coupon });
  const search = () => {
    const wanted = { words: words.value.trim(), status: status.value, coupon: of.value.trim() };
    if (!Object.values(wanted).some(Boolean)) { query = null; paint(); return; }
    query = wanted;
    picked = null;
    list.restart();
    paint();
  };
  const form = h("form", { class: "lookup", role: "search", "aria-label": t("lookup"), onsubmit: (event) => { event.preventDefault(); search(); } },
    h("div", { class: "lookup-fields" },
      h("div", { class: "field grow" }, h("label", { for: "q" }, t("lookupLabel")), words),
      h("div", { class: "field" }, h("label", { for: "q-status" }, t("lookupState")), status),
      h("div", { class: "field" }, h("label", { for: "q-coupon" }, t("lookupCoupon")), of),
      h("button", { type: "submit", class: "button" }, t("find"))),
    h("span", { class: "hint", id: "q-hint" }, t("lookupHint")));
  status.addEventListener("change", search);

  const out = h("div", { class: "lookup-out" });
  const node = panel("orders", t("lookup"), { body: [form, out], line: line() });
  function paint() {
    repaint(out, h("div", { class: "lookup-out" }, body()));
    showCommand(node, line());
  }
  paintAll = paint;
  const done = () => { list.refresh(); changed(); };
  const with_ = (show) => (id) => { const order = list.rows?.find((row) => row.order === id); if (order) show(order, done); };
  actions(out, { pick(id) { picked = id; paint(); readLog(); }, confirm: with_(confirmOrder), cancel: with_(cancelOrder), revoke: with_(revokeOrder), more: () => showMore(list, node) });
  return { node, paint };
}
