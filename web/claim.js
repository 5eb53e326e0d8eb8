// One claim: press, answer, retries with the same key, and every refusal.
import { ask, isPassing, newKey, pause, sleep, TRIES } from "./api.js";
import { correctServerTime, now } from "./clock.js";
import { accompany, readHeld } from "./life.js";
import { expire } from "./session.js";
import { changed, coupons, me, session, takeOrder } from "./shop.js";

const SLOW_AFTER = 2000;
/** The unit is held, but not yet where the coupon's durability wants it. */
const NOT_SAFE_YET = ["not-recorded-yet", "not-replicated-yet"];
/** Codes after which the coupon is known to be in another state than the page shows. */
const STATES = { "sold-out": { stock: 0 }, paused: { state: "paused" }, ended: { state: "ended" } };

/** Claims a unit. Calls `say(outcome)` at the end: "yours", "busy" at the first pause, or "told" if the card says it. */
export async function claim(id, say) {
  const mine = me(id);
  if (mine.phase && mine.phase !== "gave-up") return;
  const { token } = session;
  // The key stays until there is an answer, also over presses: if a lost request got through, this one finds its order.
  mine.key ??= newKey();
  Object.assign(mine, { phase: "sending", refusal: null, tries: 1, notice: "" });
  changed();
  for (;;) {
    const slow = setTimeout(() => { mine.phase = "slow"; changed(); }, SLOW_AFTER);
    const answer = await ask("POST", `/v1/coupons/${encodeURIComponent(id)}/claims`, { token, key: mine.key });
    clearTimeout(slow);
    if (token !== session.token) return Object.assign(mine, { phase: "" });
    if (answer.ok) return accepted(mine, answer.body, say);
    if (NOT_SAFE_YET.includes(answer.code) && answer.body.order) return held(id, mine, answer.body.order, say);
    if (!isPassing(answer)) return refused(id, mine, answer, token, say);
    if (mine.tries >= TRIES) {
      mine.phase = "gave-up";
      changed();
      say("told");
      return readHeld(id);
    }
    const ms = pause(answer, mine.tries);
    if (mine.tries === 1) say("busy");
    Object.assign(mine, { phase: "busy", tries: mine.tries + 1, retryAt: (now() ?? 0) + ms });
    changed();
    await sleep(ms);
    mine.phase = "sending";
    changed();
  }
}

function accepted(mine, view, say) {
  const order = takeOrder(view);
  order.isNews = true;
  Object.assign(mine, { phase: "", key: null, place: null });
  if (view.stock !== undefined) coupons.get(view.coupon).stock = view.stock;
  changed();
  say("yours", order);
  accompany(order.order);
}

/** A unit is held, and only its recording is not known: the order's life tells the rest. */
function held(id, mine, order, say) {
  accepted(mine, { order, coupon: id, user: session.user, status: "accepted", claimed_at: new Date(now()).toISOString() }, say);
}

function refused(id, mine, answer, token, say) {
  Object.assign(mine, { phase: "", key: null, refusal: answer.code, detail: answer.detail, requestId: answer.body?.request_id });
  const coupon = coupons.get(id);
  if (answer.status === 401) expire(token);
  if (answer.status === 429) wait(mine, answer.retryAfter);
  if (answer.code === "not-started") {
    correctServerTime(answer.body.server_time, answer.gotAt, answer.sentAt);
    coupon.starts_at = Date.parse(answer.body.starts_at);
  }
  if (answer.code === "unknown-coupon") coupon.isGone = true;
  if (answer.code === "rejected") {
    takeOrder({ order: answer.body.order, coupon: id, user: session.user, status: "rejected", claimed_at: new Date(now()).toISOString() }).isNews = true;
  }
  if (answer.code === "limit-reached") readHeld(id);
  // The stream confirms it, or corrects it if a unit has come back.
  Object.assign(coupon, STATES[answer.code]);
  changed();
  say("told");
}

function wait(mine, seconds) {
  Object.assign(mine, { phase: "rate", refusal: null, retryAt: now() + 1000 * seconds });
  setTimeout(() => {
    if (mine.phase === "rate") mine.phase = "";
    changed();
  }, 1000 * seconds);
}
