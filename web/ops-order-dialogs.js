// What an admin can do with an order: confirm, cancel, revoke. Each names the effect for its user and for the stock.
import { attribute, h, text } from "./dom.js";
import { number, t } from "./i18n.js";
import { coupon, refreshCoupons, titleOf } from "./ops-coupons.js";
import { ask, field, input, mend } from "./ops-dialogs.js";
import { when } from "./ops-state.js";
import { request } from "./ops-session.js";

const REASON_MAX_CHARS = 500;

const change = (order, transition) => request("POST", `/v1/orders/${order.order}/${transition}`, { body: {} });

export function confirmOrder(order, done) {
  const [u, c] = [order.user, titleOf(order.coupon)];
  ask({
    title: t("dConfirm", { u }), effects: [t("dConfirm1", { u, c }), t("dConfirm2", { t: when(order.reserved_until) }), t("dConfirm3")],
    go: t("dConfirmDo", { u }), send: () => change(order, "confirm"), done,
  });
}

export function cancelOrder(order, done) {
  const [u, c] = [order.user, titleOf(order.coupon)];
  ask({
    title: t("dCancel", { u }), effects: [t("dCancel1", { u, c }), t("dCancel2"), t("dCancel3", { u })], kind: "bad",
    go: t("dCancelDo", { u }), send: () => change(order, "cancel"), done: () => { refreshCoupons(); done(); },
  });
}

export function revokeOrder(order, done) {
  const [u, c] = [order.user, titleOf(order.coupon)];
  const reason = input("text", { maxlength: REASON_MAX_CHARS });
  const choice = (value, key, checked) => {
    const box = h("input", { type: "radio", name: "unit", value, checked });
    return { box, node: h("label", { class: "check" }, box, h("span", {}, t(key))) };
  };
  const [back, out] = [choice("return", "dUnitReturn", true), choice("withdraw", "dUnitWithdraw")];
  const made = ask({
    title: t("dRevoke", { u }), effects: [], kind: "bad", go: " ",
    fields: [field("dReason", reason, t("dReasonHint", { u })), h("fieldset", { class: "checks" }, h("legend", {}, t("dUnit")), back.node, out.node)],
    send: () => request("POST", `/v1/admin/orders/${order.order}/revoke`, { body: { reason: reason.value.trim(), return_unit: back.box.checked } }),
    done: () => { refreshCoupons(); done(); },
  });
  const look = () => {
    const total = coupon(order.coupon)?.total;
    const effect = back.box.checked ? t("dRevoke2", { c }) : t("dRevoke2Out", { c, a: total ? number(total) : "–", b: total ? number(total - 1) : "–" });
    made.setEffects([t("dRevoke1", { u, c }), effect, t("dRevoke3")]);
    attribute(made.confirm, "aria-disabled", reason.value.trim() ? null : "true");
    mend(reason, t("dReasonHint", { u }), false);
    text(made.confirm, t(back.box.checked ? "dRevokeDo" : "dRevokeDoOut"));
  };
  for (const box of [reason, back.box, out.box]) box.addEventListener("input", look);
  look();
  reason.focus();
}
