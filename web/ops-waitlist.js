// A look into a coupon's waiting list, the first in line first.
import { h, text } from "./dom.js";
import { number, t } from "./i18n.js";
import { ask } from "./ops-dialogs.js";
import { actions, command, none, Pages, repaint, showMore, table } from "./ops-parts.js";
import { when } from "./ops-state.js";

const PAGE_ROWS = 50;

export function showLine(coupon) {
  const body = h("div", {});
  const lead = h("p", { class: "quiet" }, t("dLineSub", { n: number(coupon.waiting ?? 0) }));
  const list = new Pages(() => `/v1/admin/coupons/${encodeURIComponent(coupon.id)}/waitlist`, PAGE_ROWS, paint);
  actions(body, { more: () => showMore(list, body.closest("dialog")) });

  function paint() {
    if (list.rows && list.next == null) text(lead, t("dLineSub", { n: number(list.rows.length) }));
    repaint(body, h("div", {}, list.body(
      (rows) => table(t("dLine", { c: coupon.title }), [{ key: "cPlace", n: true }, { key: "cUser" }, { key: "cOrder", wide: true }, { key: "cJoined" }], rows.map((row) => ({
        key: row.user, cells: [number(row.place), row.user, h("code", {}, row.order ?? "–"), row.joined_at ? h("time", {}, when(row.joined_at)) : "–"],
      }))),
      () => none(t("dLineNone")))));
  }

  ask({ title: t("dLine", { c: coupon.title }), wide: h("div", {}, lead, body, command(`seckill waitlist list ${coupon.id}`)), size: "wide" });
  paint();
  list.refresh();
}
