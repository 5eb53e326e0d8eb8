// What an admin can do with a coupon, each with its effect spelled out. An edit names the version that it was made from.
import { attribute, h, text } from "./dom.js";
import { number, t } from "./i18n.js";
import { ask, check, field, input, mend, numeric, whole } from "./ops-dialogs.js";
import { read, request } from "./ops-session.js";
import { fromInput, toInput, when, zoneName } from "./ops-state.js";
import { span } from "./view.js";

const TOTAL_MAX_UNITS = 1_000_000_000;
const PATH = "/v1/admin/coupons";
const pathOf = (id) => `${PATH}/${encodeURIComponent(id)}`;

const edit = (coupon, patch) => request("PATCH", pathOf(coupon.id), { body: patch, ifMatch: `"v${coupon.version}"` });

let opening = false;
/** Opens a dialog with the coupon as the server has it now: its version is the one that the edit names. */
async function withPresent(coupon, show) {
  if (opening) return;
  opening = true;
  const present = await read(pathOf(coupon.id)).catch(() => coupon);
  opening = false;
  show(present);
}

const reopen = (coupon, show, done) => () => withPresent(coupon, (present) => show(present, done));

export function pauseCoupon(row, done) {
  withPresent(row, (c) => ask({
    title: t("dPause", { c: c.title }), about: c.title,
    effects: [t("dPause1"), t("dPause2", { n: number(c.stock) }), t("dPause3")],
    go: t("dPauseDo", { c: c.title }), send: () => edit(c, { paused: true }), done, reload: reopen(c, pauseCoupon, done),
  }));
}

export function resumeCoupon(row, done) {
  withPresent(row, (c) => ask({
    title: t("dResume", { c: c.title }), about: c.title,
    effects: [t("dResume1", { n: number(c.stock) }), c.waiting > 0 && t("dResumeLine")].filter(Boolean),
    go: t("dResumeDo", { c: c.title }), send: () => edit(c, { paused: false }), done, reload: reopen(c, resumeCoupon, done),
  }));
}

export const restockCoupon = (row, done) => withPresent(row, (c) => changeTotal(c, done, RESTOCK));
export const withdrawUnits = (row, done) => withPresent(row, (c) => changeTotal(c, done, WITHDRAW));

const RESTOCK = {
  title: "dRestock", again: restockCoupon,
  /** Why a total will not do, or null. */
  wrong: (c, total) => (total < c.total ? t("dTotalUp", { total: number(c.total) }) : total > TOTAL_MAX_UNITS ? t("dTotalMax", { most: number(TOTAL_MAX_UNITS) }) : null),
  hint: (c) => t("dTotalHint", { total: number(c.total), held: number(c.total - c.stock) }),
  effects: (c) => [t("dRestock2"), c.waiting > 0 ? t("dRestockLine", { n: number(c.waiting) }) : t("dRestock3")],
  go: (c, total) => t("dRestockDo", { b: number(total) }),
};

const WITHDRAW = {
  title: "dWithdraw", again: withdrawUnits,
  wrong(c, total) {
    const held = c.total - c.stock;
    const least = Math.max(1, held);
    if (total < least) return t("dTotalLow", { held: number(held), least: number(least) });
    return total > c.total ? t("dTotalDown", { total: number(c.total) }) : null;
  },
  hint: (c) => t("dWithdrawHint", { total: number(c.total), held: number(c.total - c.stock) }),
  effects: (c, total) => [t("dWithdraw2", { n: number(c.total - total) }), t("dWithdraw3")],
  go: (c, total) => t("dWithdrawDo", { n: number(c.total - total), b: number(total) }),
};

/** Sends the new total, never a difference: to send it twice changes nothing. */
function changeTotal(c, done, way) {
  const box = numeric(c.total);
  const made = ask({
    title: t(way.title, { c: c.title }), about: c.title, effects: [], go: " ", fields: [field("dTotal", box, way.hint(c))],
    send: () => edit(c, { total: whole(box.value) }), done, reload: () => way.again(c, done),
  });
  const look = () => {
    const total = whole(box.value);
    const wrong = Number.isNaN(total) ? t("notNumber") : way.wrong(c, total);
    const fine = !wrong && total !== c.total;
    mend(box, wrong ?? way.hint(c), !!wrong);
    attribute(made.confirm, "aria-disabled", fine ? null : "true");
    made.setEffects(fine ? [t("dRestock1", { a: number(c.total), b: number(total), c: number(c.stock), d: number(c.stock + total - c.total) }), ...way.effects(c, total)] : [t("dEditNone")]);
    text(made.confirm, fine ? way.go(c, total) : t(way === RESTOCK ? "restock" : "withdraw"));
  };
  box.addEventListener("input", look);
  look();
  box.focus();
  box.select();
}

const dateField = (key, value, hint) => {
  const box = input("datetime-local", { step: "1", value: toInput(value) });
  return { box, node: field(key, box, t(hint, { zone: zoneName() })) };
};

const second = (time) => time && Math.floor(Date.parse(time) / 1000);
/** The time in a field; the one that is known if the field shows it, because a field has no milliseconds. */
const timeOf = (box, known) => {
  const time = fromInput(box.value);
  return second(time) === second(known) ? known : time;
};

export function editCoupon(row, done) {
  withPresent(row, (c) => {
    const title = input("text", { value: c.title, maxlength: 200 });
    const [starts, ends] = [dateField("fStarts", c.starts_at, "fTimesHint"), dateField("fEnds", c.ends_at, "fEndsHint")];
    const patch = () => {
      const wanted = { title: title.value.trim() || null, starts_at: timeOf(starts.box, c.starts_at), ends_at: timeOf(ends.box, c.ends_at) };
      const present = { title: c.title, starts_at: c.starts_at, ends_at: c.ends_at };
      return Object.fromEntries(Object.entries(wanted).filter(([name, value]) => value !== present[name] && !(name === "title" && value == null && c.title === c.id)));
    };
    const made = ask({
      title: t("dEdit", { c: c.title }), about: c.title, size: "form", effects: [], go: " ",
      fields: [field("fTitle", title, t("fTitleHint")), h("div", { class: "two" }, starts.node, ends.node)],
      send: () => edit(c, patch()), done, reload: reopen(c, editCoupon, done),
    });
    const look = () => {
      const changes = Object.entries(patch());
      const shown = { title: (v) => v ?? c.id, starts_at: (v) => (v ? when(v) : t("atOnce")), ends_at: (v) => (v ? when(v) : t("never")) };
      const name = { title: "fTitle", starts_at: "fStarts", ends_at: "fEnds" };
      made.setEffects(changes.length ? [...changes.map(([of, to]) => t("dEdit1", { f: t(name[of]), a: shown[of](c[of]), b: shown[of](to) })), t("dEdit2")] : [t("dEditNone")]);
      attribute(made.confirm, "aria-disabled", changes.length ? null : "true");
      text(made.confirm, t("dEditDo", { n: changes.length }));
    };
    for (const box of [title, starts.box, ends.box]) box.addEventListener("input", look);
    look();
  });
}

export function createCoupon(done) {
  const id = input("text", { required: true, spellcheck: "false", maxlength: 63, autocapitalize: "off" });
  const title = input("text", { maxlength: 200 });
  const [total, limit, minutes] = [numeric("100"), numeric("1"), input("text", { inputmode: "decimal" })];
  const [starts, ends] = [dateField("fStarts", null, "fTimesHint"), dateField("fEnds", null, "fEndsHint")];
  const durability = h("select", {}, [["", "fDurabilityAuto"], ["redis", "fDurabilityRedis"], ["replica", "fDurabilityReplica"], ["postgres", "fDurabilityPostgres"]].map(([value, key]) => h("option", { value }, t(key))));
  const [waitlist, unlisted] = [check("fWaitlist"), check("fUnlisted")];

  const seconds = () => (minutes.value.trim() ? Math.round(Number(minutes.value.replace(",", ".")) * 60) : null);
  const body = () => ({
    id: id.value.trim(), total: whole(total.value), per_user_limit: whole(limit.value), waitlist: waitlist.box.checked, unlisted: unlisted.box.checked,
    ...(title.value.trim() && { title: title.value.trim() }), ...(starts.box.value && { starts_at: fromInput(starts.box.value) }),
    ...(ends.box.value && { ends_at: fromInput(ends.box.value) }), ...(seconds() != null && { reserve_seconds: seconds() }), ...(durability.value && { durability: durability.value }),
  });
  const made = ask({
    title: t("dCreate"), about: t("dCreate"), size: "form", effects: [], go: t("dCreateDo"),
    fields: [
      h("div", { class: "two" }, field("fId", id, t("fIdHint")), field("fTitle", title, t("fTitleHint"))),
      h("div", { class: "two keep" }, field("fTotal", total, " "), field("fLimit", limit, " ")),
      h("div", { class: "two" }, starts.node, ends.node),
      h("div", { class: "two" }, field("fReserve", minutes, t("fReserveHint")), field("fDurability", durability)),
      h("div", { class: "checks" }, waitlist.node, unlisted.node),
    ],
    send: () => request("POST", PATH, { body: body() }), done,
  });
  const look = () => {
    const coupon = body();
    const pay = coupon.reserve_seconds;
    const bad = {
      id: !/^[A-Za-z0-9_-]{1,63}$/.test(coupon.id), total: !(coupon.total >= 1 && coupon.total <= TOTAL_MAX_UNITS),
      limit: !(coupon.per_user_limit >= 1 && coupon.per_user_limit <= 16), minutes: pay !== undefined && !(pay >= 1 && pay <= 2_592_000),
    };
    mend(id, t("fIdHint"), bad.id && !!id.value);
    mend(total, bad.total ? t("notNumber") : " ", bad.total);
    mend(limit, bad.limit ? t("fLimitRange") : " ", bad.limit);
    mend(minutes, bad.minutes ? t("notNumber") : t("fReserveHint"), bad.minutes);
    const fine = !Object.values(bad).some(Boolean);
    attribute(made.confirm, "aria-disabled", fine ? null : "true");
    made.setEffects(fine ? [
      t("dCreate1", { n: number(coupon.total), l: coupon.per_user_limit, from: coupon.starts_at ? when(coupon.starts_at) : t("atOnce"), to: coupon.ends_at ? when(coupon.ends_at) : t("never") }),
      pay ? t("dCreate2Pay", { d: span(pay * 1000) }) : t("dCreate2"), t("dCreate3"),
    ] : [t("dCreateFirst")]);
  };
  for (const box of made.box.querySelectorAll("input, select")) box.addEventListener("input", look);
  look();
}
