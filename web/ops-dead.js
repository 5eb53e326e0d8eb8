// The dead letters: events that could not be recorded. One at a time; there is no button for all.
import { h, mark, text } from "./dom.js";
import { number, t } from "./i18n.js";
import { coupon, refreshCoupons } from "./ops-coupons.js";
import { ask } from "./ops-dialogs.js";
import { act, actions, banner, bones, command, none, Pages, panel, problemWords, repaint, showMore, table } from "./ops-parts.js";
import { isStale, onStatus, ops, when } from "./ops-state.js";
import { read, request } from "./ops-session.js";

const PAGE_ROWS = 20;
const AGE_MS = 15_000;

const list = new Pages(() => "/v1/admin/dead", PAGE_ROWS, () => paintAll());
let paintAll = () => {};
let open = null;

onStatus(({ dead_letters: letters }) => {
  list.keep(letters && letters.open !== open ? 0 : AGE_MS);
  open = letters?.open ?? open;
});

const isOpen = (letter) => !letter.seen_at && !letter.replaced_by;
const letterOf = (id) => list.rows?.find((letter) => String(letter.id) === id);

function outcome(letter) {
  const tone = isStale() ? "wait" : letter.replaced_by ? "ok" : letter.seen_at ? "" : "warn";
  const words = letter.replaced_by ? t("replayed", { order: `…${letter.replaced_by.slice(-8)}` }) : t(letter.seen_at ? "discarded" : "toLook");
  return h("span", { class: "state" }, mark(tone), words);
}

function cells(letter) {
  const { id, user } = letter;
  return [
    h("time", {}, when(letter.died_at)),
    h("span", {}, user ?? h("span", { class: "quiet" }, t("noUser")), letter.coupon && h("span", { class: "id" }, letter.coupon)),
    h("span", { class: "why" }, letter.error),
    outcome(letter),
    h("div", { class: "acts" },
      isOpen(letter) && user && act("replay", "replay", { of: id, about: id }),
      isOpen(letter) && act("discard", "discard", { of: id, about: id }),
      act("details", "details", { of: id, about: id })),
  ];
}

function replay(letter, done) {
  const { id, user: u, coupon: c } = letter;
  const known = coupon(c);
  ask({
    title: t("dReplay", { id }), effects: [t("dReplay1", { u, c: known?.title ?? c, n: known ? number(known.stock) : "–" }), t("dReplay2"), t("dReplay3")],
    go: t("dReplayDo", { u }), send: () => request("POST", `/v1/admin/dead/${id}/replay`, { body: {} }), done,
  });
}

function discard(letter, done) {
  const { id, user } = letter;
  ask({
    title: t("dDiscard", { id }), effects: [t("dDiscard1", { t: when(letter.died_at) }), user && t("dDiscard2", { u: user }), t("dDiscard3")].filter(Boolean),
    go: t("dDiscardDo"), send: () => request("POST", `/v1/admin/dead/${id}/discard`, { body: {} }), done,
  });
}

async function details(letter) {
  const content = h("div", {}, bones(5));
  ask({ title: t("dLetter", { id: letter.id }), wide: content, size: "wide" });
  const row = (name, value) => h("div", {}, h("dt", {}, name), h("dd", { class: "mono" }, value));
  try {
    const { entry, order, error, deliveries, died_at: died, seen_at: seen, fields } = await read(`/v1/admin/dead/${letter.id}`);
    content.replaceChildren(
      h("p", { class: "why" }, error),
      h("dl", { class: "ledger" },
        row(t("lDied"), when(died)), row(t("lSeen"), seen ? when(seen) : "–"), row(t("lEntry"), entry ?? "–"), row(t("lOrder"), order ?? "–"), row(t("lDeliveries"), deliveries == null ? "–" : number(deliveries)),
        ...(fields ?? []).map(({ name, value }) => row(t("lField", { f: name }), value))),
      command(`seckill dead show ${letter.id}`));
  } catch (problem) {
    if (problem.status === undefined) throw problem;
    content.replaceChildren(banner("bad", problemWords(problem)));
  }
}

const COLUMNS = [{ key: "cWhen" }, { key: "cUser" }, { key: "cWhy", wide: true }, { key: "cOutcome", wide: true, label: false }, { key: "cDo", hide: true, wide: true, label: false }];

/** The panel: { node, paint }; `changed` is called after each action. */
export function deadPanel(changed) {
  const draw = () => {
    const fresh = ops.status?.dead_letters?.open ?? list.rows?.filter(isOpen).length ?? 0;
    const badge = document.getElementById("dead-count");
    badge.hidden = !fresh;
    text(badge, number(fresh));
    return panel("dead", t("dead"), {
      sub: fresh ? t("deadNew", { n: number(fresh) }) : "",
      body: list.body((rows) => table(t("dead"), COLUMNS, rows.map((letter) => ({ key: String(letter.id), cells: cells(letter) }))), () => none(t("noDead"))),
      line: "seckill psql -c 'select id, order_id, error, died_at from dead_letters order by id desc limit 20'",
    });
  };
  const node = draw();
  const paint = () => repaint(node, draw());
  paintAll = paint;
  const done = () => { list.refresh(); refreshCoupons(); changed(); };
  const with_ = (show) => (id) => { const letter = letterOf(id); if (letter) show(letter, done); };
  actions(node, { replay: with_(replay), discard: with_(discard), details: with_(details), more: () => showMore(list, node) });
  return { node, paint };
}
