// What happened to an order, in its sequence.
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { exact, now, when } from "./ops-state.js";
import { span } from "./view.js";

/** log: the rows of the audit log about the order */
export function timeline(order, log) {
  const { claimed_at: claimed, recorded_at: recorded, reserved_until: until, ended_at: ended, confirmed_at: confirmed, reason, status, replaced_by: replaced } = order;
  const revoked = log.find((row) => row.action === "revoke");
  const steps = [
    { at: claimed, name: t("tlClaimed"), why: t("tlClaimedWhy") },
    recorded && status !== "rejected" && { at: recorded, name: t("tlRecorded"), why: t("tlRecordedWhy", { d: span(Math.max(0, Date.parse(recorded) - Date.parse(claimed))) }) },
    status === "reserved" && { name: t(Date.parse(until) < now() ? "tlExpired" : "tlPay"), why: t("tlPayWhy", { t: when(until) }), tone: "wait" },
    (status === "confirmed" || confirmed || revoked) && { at: confirmed ?? (until ? null : recorded), name: t("tlConfirmed"), why: t(until ? "tlConfirmedPaid" : "tlConfirmedAtOnce") },
    status === "expired" && { at: ended, name: t("tlExpired"), why: t("tlExpiredWhy"), tone: "bad" },
    status === "rejected" && { at: ended ?? recorded, name: t("tlRejected"), why: reason, tone: "bad" },
    status === "cancelled" && { at: ended, name: revoked ? t("tlRevoked", { who: revoked.actor }) : t("tlCancelled"), why: reason ?? t("tlCancelledWhy"), tone: "bad" },
    replaced && { name: t("tlReplaced"), why: replaced },
  ].filter(Boolean);
  return h("ol", { class: "line" }, steps.map(({ at, name, why, tone }) => h("li", { "data-tone": tone },
    h("time", {}, at ? exact(at) : ""), h("div", {}, h("b", {}, name), h("span", {}, why ?? "")))));
}
