// The waiting list of a sold-out coupon: join, the place in line, leave, and the order that comes of it.
import { askPatiently, newKey, sleep } from "./api.js";
import { accompany } from "./life.js";
import { expire } from "./session.js";
import { changed, coupons, me, session, takeOrder } from "./shop.js";

/** How often a waiting page asks for its place, ms: seldom where many wait before it. */
const every = (place) => (place <= 10 ? 3000 : 20_000) * (0.7 + 0.6 * Math.random());
const watched = new Set();
let told = () => {};

/** `tell(coupon, order)` is called when the user has got a unit. */
export function onServed(tell) { told = tell; }

const path = (id) => `/v1/coupons/${encodeURIComponent(id)}/waitlist`;

export async function join(id, say) {
  const mine = me(id);
  if (mine.phase) return;
  mine.key ??= newKey();
  Object.assign(mine, { phase: "joining", refusal: null });
  changed();
  const { token } = session;
  const answer = await askPatiently("POST", path(id), { token, key: mine.key }, { waiting: () => { mine.notice = "nSettleBusy"; changed(); } });
  Object.assign(mine, { phase: "", notice: "" });
  if (token !== session.token) return;
  if (answer.ok) take(id, answer.body);
  else if (answer.status === 401) expire(token);
  else if (answer.code === "unknown-coupon") coupons.get(id).isGone = true;
  else if (answer.code === "not-sold-out") await look(id);
  else mine.refusal = answer.code === "no-answer" || answer.status === 503 ? "busy" : answer.code;
  if (answer.status !== 0 && answer.status !== 503) mine.key = null;
  changed();
  say("told");
}

export async function leave(id, say) {
  const mine = me(id);
  const { token } = session;
  mine.settling = "leave";
  changed();
  const answer = await askPatiently("DELETE", path(id), { token });
  mine.settling = "";
  if (answer.ok) mine.place = null;
  else if (answer.status === 401) expire(token);
  else if (answer.code === "already-served") await readPlace(id);
  else mine.notice = "nSettleFailed";
  changed();
  say("told");
}

/** A place in line, or the order that came of it. */
function take(id, view) {
  const mine = me(id);
  if (view.status === "waiting") {
    mine.place = view;
    watch(id);
    return;
  }
  const wasWaiting = !!mine.place;
  mine.place = null;
  const order = takeOrder(view);
  accompany(order.order);
  if (wasWaiting) { order.isNews = true; told(id, order); }
}

/** Asks for the user's place; true if the server has answered. */
export async function readPlace(id) {
  const { token } = session;
  const answer = await askPatiently("GET", path(id), { token }, { tries: 2 });
  if (token !== session.token) return;
  if (answer.ok) take(id, answer.body);
  else if (answer.status === 401) expire(token);
  else if (answer.code === "not-waiting") me(id).place = null;
  changed();
}

async function watch(id) {
  if (watched.has(id)) return;
  watched.add(id);
  while (me(id).place) {
    const { order, place } = me(id).place;
    await sleep(every(place));
    if (me(id).place?.order === order && !document.hidden) await readPlace(id);
  }
  watched.delete(id);
}

/** The number of waiting users has changed: those in front look at once, since it may be their turn. */
export function lineMoved(id) {
  const { place } = me(id);
  if (place && place.place <= 10) readPlace(id);
}

/** Units are left: shows them before the stream does. */
async function look(id) {
  const answer = await askPatiently("GET", `/v1/coupons/${encodeURIComponent(id)}`, {}, { tries: 2 });
  if (answer.ok) Object.assign(coupons.get(id), { stock: answer.body.stock, state: answer.body.state, waiting: answer.body.waiting });
}
