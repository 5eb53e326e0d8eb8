// The receipt of a coupon, from both stores: its units add up to the total, or by how many not. It can be printed.
import { h, mark } from "./dom.js";
import { hasText, number, t } from "./i18n.js";
import { ask } from "./ops-dialogs.js";
import { banner, bones, command, none, problemWords, table } from "./ops-parts.js";
import { full, zoneName } from "./ops-state.js";
import { read } from "./ops-session.js";

/** Exceptions that are drawn. */
const EXCEPTIONS_MAX = 200;

export function showReceipt(coupon) {
  const content = h("div", { class: "receipt" }, bones(6));
  const print = h("button", { type: "button", class: "button", "aria-disabled": "true", onclick: () => { if (!print.getAttribute("aria-disabled")) window.print(); } }, t("print"));
  const made = ask({ title: t("dReceipt", { c: coupon.title }), wide: content, size: "wide" });
  made.box.classList.add("printable");
  made.box.querySelector(".dialog-do").prepend(print);
  load();

  async function load() {
    try {
      const receipt = await read(`/v1/admin/coupons/${encodeURIComponent(coupon.id)}/receipt`);
      content.replaceChildren(...sheet(receipt, coupon));
      print.removeAttribute("aria-disabled");
    } catch (problem) {
      if (problem.status === undefined) throw problem;
      const again = h("button", { type: "button", class: "button", onclick: () => { content.replaceChildren(bones(6)); load(); } }, t("tryNow"));
      content.replaceChildren(banner("bad", problemWords(problem), again));
    }
  }
}

function sheet(receipt, coupon) {
  const { stock, accepted, reserved, confirmed, total, returned, rejected, returning, adds_up: fine, off_by: off, exceptions, exceptions_found: found } = receipt;
  const shown = exceptions.slice(0, EXCEPTIONS_MAX);
  const row = (key, n, { small, cls, fill } = {}) => h("div", { class: cls }, h("dt", {}, t(key, fill), small && h("small", {}, small)), h("dd", {}, n));
  const verdict = h("span", { class: "state", "data-verdict": fine ? "ok" : "bad" }, mark(fine ? "ok" : "bad"), fine ? t("addsUp") : off ? t("offBy", { n: number(Math.abs(off)) }) : t("excepted", { n: number(found) }));
  return [
    h("p", { class: "quiet" }, h("code", {}, coupon.id), " · ", t("rAt", { t: receipt.server_time ? `${full(receipt.server_time)} ${zoneName()}` : "–" })),
    h("dl", { class: "ledger" },
      row("rStock", number(stock), { small: returning ? t("rReturning", { n: number(returning) }) : t("rStockWhy") }), row("rAccepted", number(accepted)), row("rReserved", number(reserved)), row("rConfirmed", number(confirmed)),
      row("rSum", [verdict, number(stock + accepted + reserved + confirmed)], { cls: "sum", fill: { total: number(total) } })),
    h("dl", { class: "ledger" }, row("rBack", number(returned)), row("rRejected", number(rejected))),
    !fine && h("p", { class: "quiet" }, t("rOffWhy")),
    h("h3", {}, t("rExceptions"), found ? ` (${number(found)})` : ""),
    shown.length
      ? table(t("rExceptions"), [{ key: "cKind", wide: true, label: false }, { key: "cUser" }, { key: "cOrder", wide: true }, { key: "cWhy", wide: true }], shown.map((exception, i) => ({
        key: `${exception.kind} ${exception.order ?? i}`,
        cells: [hasText(`k_${exception.kind}`) ? t(`k_${exception.kind}`) : exception.kind, exception.user ?? "–", h("code", {}, exception.order ?? "–"), h("span", { class: "why" }, exception.why ?? "")],
      })))
      : none(t("rNoExceptions")),
    found > shown.length && h("p", { class: "quiet" }, t("rMore", { n: number(found - shown.length) })),
    command(`seckill audit ${coupon.id}`),
  ].filter(Boolean);
}
