// What the storefront knows: coupons, orders, places in line, and who is signed in. Painting is told of each change.
import { now } from "./clock.js";
import { TRIES } from "./api.js";

/** By id, in the order of the page. Times are ms since 1970. */
export const coupons = new Map();
/** By order id: orders of the user, as the server last showed them. */
export const orders = new Map();
export const session = { user: null, token: null, demo: false, users: [], isKnown: false, isExpired: false, wrong: "" };

const RANK = { accepted: 0, reserved: 1, confirmed: 2 };
const ENDED = 3;
const mine = new Map();
const painters = new Set();
let isDue = false;

export function onChange(paint) { painters.add(paint); }

/** Paints once after all changes of this moment. */
export function changed() {
  if (isDue) return;
  isDue = true;
  queueMicrotask(() => {
    isDue = false;
    for (const paint of painters) paint();
  });
}

/** What the user does with a coupon: { phase, tries, of, retryAt, refusal, key, place, settling, notice }. */
export function me(id) {
  if (!mine.has(id)) mine.set(id, { phase: "", tries: 0, of: TRIES, retryAt: 0, refusal: null, key: null, place: null, settling: "", notice: "" });
  return mine.get(id);
}

export function forgetUser() {
  mine.clear();
  orders.clear();
}

const time = (text) => (text ? Date.parse(text) : null);

export function takeCoupon(view) {
  const coupon = { ...view, starts_at: time(view.starts_at), ends_at: time(view.ends_at), isGone: false };
  coupons.set(coupon.id, coupon);
  return coupon;
}

export function takeOrder(view) {
  const before = orders.get(view.order);
  const order = {
    ...view, claimed_at: time(view.claimed_at), recorded_at: time(view.recorded_at), reserved_until: time(view.reserved_until),
    isSlow: false, isNews: before?.isNews ?? false,
  };
  // A status never goes back: an answer that was under way for long is older than what is known.
  if (before && (RANK[before.status] ?? ENDED) > (RANK[order.status] ?? ENDED)) return before;
  if (before && before.status !== order.status) order.isNews = true;
  orders.set(order.order, order);
  return order;
}

export const isLive = (order) => ["accepted", "reserved", "confirmed"].includes(order.status);

/** The time to pay has run out, although no answer has said so yet: reserved_until alone decides. */
export const isOverdue = (order, at) => order.status === "reserved" && order.reserved_until <= at;

export const ordersOf = (coupon) => [...orders.values()].filter((order) => order.coupon === coupon).sort(byNewest);
/** Ids begin with the time. */
export const byNewest = (a, b) => (a.order < b.order ? 1 : -1);

/** A coupon's state now: the opening and the end need no word of the server. */
export function stateAt(coupon, at) {
  if (coupon.state === "ended" || coupon.ends_at && at >= coupon.ends_at) return "ended";
  if (coupon.state === "paused") return "paused";
  if (coupon.starts_at && at < coupon.starts_at) return "scheduled";
  return coupon.stock > 0 ? "open" : "sold_out";
}

/** All that the card of a coupon shows, but the coupon itself. */
export function standing(id) {
  const at = now() ?? 0;
  const own = ordersOf(id);
  const live = own.filter((order) => isLive(order) && !isOverdue(order, at));
  const rank = { reserved: 0, accepted: 1, confirmed: 2 };
  live.sort((a, b) => rank[a.status] - rank[b.status]);
  // An order that ended before this visit explains nothing that the reader sees.
  const order = live[0] ?? own.find((one) => one.isNews || isOverdue(one, at));
  return { ...me(id), user: session.user, isExpired: session.isExpired, canPay: session.demo, order, held: live.length };
}
