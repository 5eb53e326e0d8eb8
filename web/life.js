// The life of orders after the claim: recorded, paid or given back, expired. Each order has one companion that asks for
// it until its status is final.
import { ask, askPatiently, isPassing, pause, sleep } from "./api.js";
import { now } from "./clock.js";
import { expire } from "./session.js";
import { changed, me, orders, session, takeOrder } from "./shop.js";

const SLOW_AFTER = 5000;
/** Outside a demo the shop's checkout pays: this often the page looks whether it has; ms. */
const LOOK_EVERY = 5000;
const accompanied = new Set();
let told = () => {};

/** `tell(order)` is called when the status of an order has changed. */
export function onNews(tell) { told = tell; }

export async function accompany(id) {
  if (accompanied.has(id)) return;
  accompanied.add(id);
  const { user } = session;
  const slow = setTimeout(() => {
    const order = orders.get(id);
    if (order?.status === "accepted") { order.isSlow = true; changed(); }
  }, SLOW_AFTER);
  for (let tries = 1; session.user === user; tries += 1) {
    const order = orders.get(id);
    if (order?.status === "reserved") await sleep(untilLook(order));
    else if (order?.status !== "accepted") break;
    if (session.user !== user || !await look(id, tries)) break;
  }
  clearTimeout(slow);
  accompanied.delete(id);
}

function untilLook(order) {
  const left = order.reserved_until - now();
  const most = session.demo || document.hidden ? left : Math.min(left, LOOK_EVERY * (0.8 + 0.4 * Math.random()));
  // Not before the server's clock has passed the time, and not again and again while its worker is about to act.
  return Math.max(most, left <= 0 ? 1000 : 200);
}

/** Reads the order once; the server waits for the recording. Returns whether to go on. */
async function look(id, tries) {
  const { token } = session;
  const before = orders.get(id)?.status;
  const answer = await ask("GET", `/v1/orders/${id}`, { token });
  if (answer.status === 401) { expire(token); return false; }
  if (isPassing(answer)) { await sleep(pause(answer, Math.min(tries, 4))); return true; }
  if (answer.code === "order-lost" && orders.has(id)) return lose(orders.get(id));
  if (!answer.ok) { orders.delete(id); changed(); return false; }
  const order = takeOrder(answer.body);
  if (order.status !== before) { me(order.coupon).notice = ""; changed(); told(order); }
  return true;
}

/** A server that failed has lost the order: it stays on the page, for the buyer was told it. Nothing more comes of it. */
function lose(order) {
  Object.assign(order, { status: "lost", isNews: true });
  me(order.coupon).notice = "";
  changed();
  told(order);
  return false;
}

/** Pays for or gives back a reserved order: "confirm" or "cancel". */
export async function settle(id, act) {
  const order = orders.get(id);
  const mine = me(order.coupon);
  if (mine.settling) return;
  const { token } = session;
  Object.assign(mine, { settling: act, notice: "" });
  changed();
  const answer = await askPatiently("POST", `/v1/orders/${id}/${act}`, { token }, {
    waiting: () => { mine.notice = "nSettleBusy"; changed(); },
  });
  Object.assign(mine, { settling: "", notice: "" });
  if (answer.status === 401) expire(token);
  else if (answer.ok) takeOrder(answer.body).isNews = true;
  else if (answer.status === 409 || answer.code === "order-lost") await look(id, 1);
  else mine.notice = "nSettleFailed";
  changed();
}

/** Finds the orders of one coupon that are accepted and not in the list of recorded ones. */
export async function readHeld(coupon) {
  const { token } = session;
  const answer = await askPatiently("GET", `/v1/coupons/${encodeURIComponent(coupon)}/claims`, { token });
  if (!answer.ok || token !== session.token) return;
  for (const view of answer.body.items) accompany(takeOrder(view).order);
  const mine = me(coupon);
  if (answer.body.items.length && mine.phase === "gave-up") Object.assign(mine, { phase: "", key: null });
  changed();
}
