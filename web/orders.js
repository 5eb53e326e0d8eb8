// "My coupons": the user's orders in pages, newest first.
import { ask, askPatiently, isPassing, pause, sleep } from "./api.js";
import { now } from "./clock.js";
import { h, mark, morph, text } from "./dom.js";
import { t } from "./i18n.js";
import { accompany, readHeld } from "./life.js";
import { expire } from "./session.js";
import { byNewest, changed, coupons, isLive, isOverdue, orders, session, takeOrder } from "./shop.js";
import { readPlace } from "./waitlist.js";
import { slip } from "./view.js";

const PAGE = 20;
/** Coupons of which unrecorded orders are looked for at the sign-in; all others are in the list of recorded ones. */
const MOST_LOOKS = 8;
const TONE = { accepted: "go", reserved: "wait", confirmed: "ok", cancelled: "", expired: "warn", rejected: "bad", lost: "bad" };
/** Titles of coupons that are not on this page. */
const titles = new Map();
const list = { next: null, hasFailed: false, readFor: null };

/** Reads what the user has: all after the sign-in, only the recorded orders when the page is looked at again. */
export async function readMine(isAgain = false) {
  const { token } = session;
  if (!token) return;
  for (let tries = 1; token === session.token; tries += 1) {
    const answer = await ask("GET", `/v1/orders?limit=${PAGE}`, { token });
    if (answer.status === 401) return expire(token);
    list.hasFailed = !answer.ok;
    if (answer.ok) { take(answer.body, token); break; }
    changed();
    if (!isPassing(answer)) return;
    await sleep(pause(answer, Math.min(tries, 4)));
  }
  if (isAgain) return;
  // One after the other: nothing here is in a hurry, and a claim may be.
  const open = [...coupons.values()].filter((coupon) => coupon.state !== "scheduled" && coupon.state !== "ended");
  for (const coupon of open.slice(0, MOST_LOOKS)) {
    if (token !== session.token) return;
    if (coupon.waitlist && coupon.waiting) await readPlace(coupon.id);
    else await readHeld(coupon.id);
  }
}

async function readMore() {
  const { token } = session;
  const answer = await askPatiently("GET", `/v1/orders?limit=${PAGE}&after=${list.next}`, { token });
  if (answer.ok) take(answer.body, token);
}

function take({ items, next }, token) {
  if (token !== session.token) return;
  list.next = next;
  list.readFor = session.user;
  for (const view of items) {
    const order = takeOrder(view);
    if (isLive(order)) accompany(order.order);
    nameCoupon(order.coupon);
  }
  changed();
}

async function nameCoupon(id) {
  if (coupons.has(id) || titles.has(id)) return;
  titles.set(id, id);
  const answer = await ask("GET", `/v1/coupons/${encodeURIComponent(id)}`);
  if (answer.ok) titles.set(id, answer.body.title);
  changed();
}

export const titleOf = (id) => coupons.get(id)?.title ?? titles.get(id) ?? id;

export function paintMine(isFresh) {
  const at = now() ?? 0;
  const box = document.getElementById("mine");
  const shown = [...orders.values()].sort(byNewest);
  const fresh = h("ul", { id: "mine" }, ...shown.map((order) => row(order, at, isFresh)));
  morph(box, fresh);
  const toMine = document.getElementById("to-mine");
  toMine.hidden = !shown.length;
  text(toMine, `${t("mine")} (${shown.filter((order) => isLive(order) && !isOverdue(order, at)).length})`);
  const none = document.getElementById("mine-none");
  none.hidden = shown.length > 0 && !list.hasFailed;
  text(none, t(!session.user ? "mineSignin" : list.hasFailed ? "mineFailed" : list.readFor === session.user ? "mineNone" : "mineLoading"));
  const more = document.getElementById("mine-more");
  more.hidden = !session.user || !list.next;
  text(more, t("mineMore"));
}

function row(order, at, isFresh) {
  const status = isOverdue(order, at) ? "expired" : order.status;
  const reserve = order.reserved_until && 1;
  const tone = isFresh ? TONE[status] : "wait";
  return h("li", { "data-key": order.order, "data-status": status },
    h("div", { class: "row" }, h("b", {}, titleOf(order.coupon)), h("span", { class: "state" }, mark(tone), t(status))),
    h("code", {}, order.order),
    isLive(order) && status !== "expired" && h("ol", { class: "steps" }, slip(order, at, reserve).steps.map((step) =>
      h("li", { "data-done": step.done && "", "aria-current": step.current && "step" }, h("b", {}, step.name), h("small", {}, step.small || "\u00a0")))));
}

export function startMine() {
  document.getElementById("mine-more").addEventListener("click", readMore);
}
