// The audit log: every change that an admin has made, newest first.
import { h } from "./dom.js";
import { hasText, t } from "./i18n.js";
import { actions, literal, none, Pages, panel, psql, repaint, showCommand, showMore, table } from "./ops-parts.js";
import { onStatus, when } from "./ops-state.js";

const PAGE_ROWS = 20;
const AGE_MS = 15_000;

let of = "";
let paintAll = () => {};
const list = new Pages(() => (of ? `/v1/admin/audit?coupon=${encodeURIComponent(of)}` : "/v1/admin/audit"), PAGE_ROWS, () => paintAll());

export const refreshLog = () => list.refresh();
onStatus(() => list.keep(AGE_MS));

const words = (value) => (value == null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));

/** Such as `total 100 → 200`; of a new thing only what it is. */
function changes({ old, new: fresh }) {
  const names = [...new Set([...Object.keys(old ?? {}), ...Object.keys(fresh ?? {})])];
  const line = (name) => (old && name in old ? `${name} ${words(old[name])} → ${words(fresh?.[name])}` : `${name} ${words(fresh?.[name])}`);
  return h("span", { class: "changes" }, names.filter((name) => fresh?.[name] != null || old?.[name] != null).map((name) => h("span", {}, line(name))));
}

const COLUMNS = [{ key: "cWhen" }, { key: "cAction" }, { key: "cWho", wide: true }, { key: "cAbout", wide: true }, { key: "cChange", wide: true }];

const cells = (row) => [
  h("time", {}, when(row.at)),
  hasText(`a_${row.action}`) ? t(`a_${row.action}`) : row.action,
  h("span", {}, row.actor, row.request_id && h("span", { class: "id request" }, row.request_id)),
  h("span", {}, row.coupon ?? "–", row.order && h("span", { class: "id" }, row.order)),
  changes(row),
];

/** The panel: { node, paint }. */
export function logPanel() {
  const input = h("input", { class: "input", id: "log-of", type: "text", spellcheck: "false", autocomplete: "off", autocapitalize: "off", value: of });
  const form = h("form", { class: "lookup", role: "search", "aria-label": t("audit"), onsubmit: (event) => { event.preventDefault(); of = input.value.trim(); list.restart(); paint(); } },
    h("div", { class: "lookup-fields" }, h("div", { class: "field wide-field" }, h("label", { for: "log-of" }, t("auditCoupon")), input), h("button", { type: "submit", class: "button" }, t("show"))));
  const out = h("div", {});
  const line = () => psql(`select id, at, actor, action, coupon_id, order_id, old, new from audit_log${of ? ` where coupon_id = ${literal(of)}` : ""} order by id desc limit 20`);
  const node = panel("audit", t("audit"), { sub: t("auditSub"), body: [form, out], line: line() });
  function paint() {
    repaint(out, h("div", {}, list.body(
      (rows) => table(t("audit"), COLUMNS, rows.map((row) => ({ key: String(row.id), cells: cells(row) }))),
      () => none(of ? t("auditNoneOf", { c: of }) : t("auditNone")))));
    showCommand(node, line());
  }
  paintAll = paint;
  actions(out, { more: () => showMore(list, node) });
  return { node, paint };
}
