// What happens now: rates, backlog and stock of the last five minutes. A gap in a line is a second without news.
import { h, text } from "./dom.js";
import { number, t } from "./i18n.js";
import { act, actions, none, panel, repaint, showCommand } from "./ops-parts.js";
import { WINDOW_SECONDS, now, ops } from "./ops-state.js";
import { spark, timeChart } from "./charts.js";
import { span } from "./view.js";

/** Stocks that are drawn at first. */
const STOCKS_FIRST = 8;

/** The point of a second. The server sends one about each second: a number may be left out, which is no gap. */
const pointOf = (second) => ops.points.get(second) ?? (ops.points.has(second + 1) ? ops.points.get(second - 1) : undefined);

/** The seconds of the window, and for each name its values, null for a second without a point. */
function series(names) {
  const end = Math.max(Math.floor(now() / 1000), ...ops.points.keys());
  const seconds = Array.from({ length: WINDOW_SECONDS }, (_, i) => end - WINDOW_SECONDS + 1 + i);
  // The point of the present second may not be here yet: that is no gap.
  while (seconds.length > 1 && !ops.points.has(seconds.at(-1)) && seconds.at(-1) > end - 3) seconds.pop();
  return [seconds, names.map((name) => seconds.map((second) => pointOf(second)?.[name] ?? null))];
}

/** The height of each line of a stack: the sum up to it. A share that is nothing draws no line over the one below it. */
function stack(rows) {
  const sums = rows.reduce((made, row) => [...made, row.map((v, i) => (v == null ? null : v + (made.at(-1)?.[i] ?? 0)))], []);
  return sums.map((sum, k) => (k ? sum.map((v, i) => (rows[k][i] || rows[k][i + 1] || rows[k][i - 1] ? v : null)) : sum));
}

/** keys: [{ key, s: colour in the legend, of: field of a point, colour, fill }], the lowest line first */
function chartPanel({ id, title, sub = "last5", keys, line, blankKey, value = number, unit }) {
  const figures = keys.map(() => h("dd", {}, "–"));
  const plot = h("div", { class: "plot", "aria-hidden": "true" });
  const summary = h("p", { class: "vh" });
  const blank = h("p", { class: "none" }, t(blankKey));
  const node = panel(id, t(title), {
    sub: t(sub), line,
    body: [h("dl", { class: "legend" }, keys.map(({ key, s }, i) => h("div", {}, h("dt", {}, h("span", { class: "key", "data-s": s }), t(key)), figures[i]))), plot, blank, summary],
  });
  let chart;
  let cursor = null;
  let rows = keys.map(() => []);
  const figuresAt = (i) => keys.forEach((_, k) => { const v = i == null ? rows[k].findLast((n) => n != null) : rows[k][i]; text(figures[k], v == null ? "–" : value(v)); });
  function paint() {
    let seconds;
    [seconds, rows] = series(keys.map((key) => key.of));
    chart ??= timeChart(plot, [...keys].reverse(), (i) => { cursor = i; figuresAt(i); }, unit);
    chart.show(seconds, ...stack(rows).reverse());
    if (cursor == null) figuresAt(null);
    const known = rows.flat().filter((v) => v != null);
    blank.hidden = known.some(Boolean);
    const isMeasured = !ops.points.size || keys.some(({ of }) => [...ops.points.values()].some((point) => of in point));
    const why = t(!ops.points.size ? "reading" : isMeasured ? blankKey : "chartNotMeasured");
    text(blank, why);
    const latest = rows[0].findLast((v) => v != null);
    text(summary, latest == null ? why : t("chartSum", { name: t(title), now: value(latest), max: value(Math.max(...rows[0].filter((v) => v != null))) }));
  }
  return { node, paint };
}

function stockPanel() {
  let most = STOCKS_FIRST;
  const drawn = new Map();
  const list = h("ul", { class: "stocks" });
  const rest = h("div", {});
  const node = panel("stock", t("stockLeft"), { sub: t("last5"), body: [list, rest], line: "seckill redis-cli HGET 'seckill:{0}:coupon:coffee' stock" });
  actions(node, { more() { most += STOCKS_FIRST; paint(); } });

  function row(coupon) {
    const host = h("div", { class: "spark", "aria-hidden": "true" });
    const [name, figure, total] = [h("span", { class: "stock-name" }), h("b", {}), h("span", { class: "quiet" })];
    const made = { item: h("li", {}, name, host, h("span", { class: "now" }, figure, total)), name, figure, total, host, chart: null };
    drawn.set(coupon.id, made);
    return made;
  }

  function paint() {
    const coupons = (ops.status?.coupons ?? []).filter((coupon) => coupon.state !== "scheduled" && coupon.state !== "ended");
    const shown = coupons.slice(0, most);
    const ids = new Set(shown.map((coupon) => coupon.id));
    for (const [id, { item }] of drawn) if (!ids.has(id)) { item.remove(); drawn.delete(id); }
    const [seconds] = series([]);
    shown.forEach((coupon, i) => {
      const made = drawn.get(coupon.id) ?? row(coupon);
      if (list.children[i] !== made.item) list.insertBefore(made.item, list.children[i] ?? null);
      made.chart ??= spark(made.host);
      made.chart.show(seconds, seconds.map((second) => pointOf(second)?.stock?.[coupon.id] ?? null), coupon.total);
      text(made.name, coupon.title);
      text(made.figure, number(coupon.stock));
      text(made.total, ` ${t("ofTotal", { total: number(coupon.total) })}`);
    });
    if (shown.length) showCommand(node, `seckill redis-cli HGET 'seckill:{0}:coupon:${shown[0].id}' stock`);
    const left = ops.status?.coupons_left_out ?? 0;
    const fresh = h("div", {},
      !shown.length && none(t(ops.status ? "noCoupons" : "reading")),
      coupons.length > shown.length && h("div", { class: "more" }, act("more", "more", { about: t("stockLeft") })),
      left > 0 && h("p", { class: "quiet" }, t("stockMore", { n: number(left) })));
    repaint(rest, fresh);
  }
  return { node, paint };
}

/** The charts: { node, paint }. */
export function charts() {
  const accent = { colour: "--accent", fill: "26" };
  const parts = [
    chartPanel({
      id: "claims", title: "claims", sub: "last5here", blankKey: "chartNoData", line: "seckill redis-cli XINFO STREAM 'seckill:{0}:orders'",
      keys: [{ key: "kAccepted", s: 1, of: "accepted", ...accent }, { key: "kRepeated", s: 4, of: "repeated", colour: "--ink-2", fill: "26" }, { key: "kRefused", s: 2, of: "refused", colour: "--edge", fill: "26" }, { key: "kUnavailable", s: 3, of: "unavailable", colour: "--bad", fill: "33" }],
    }),
    chartPanel({
      id: "recorded", title: "recordedRate", blankKey: "chartNoOrders", line: "seckill psql -c 'select count(*), max(recorded_at) from orders'",
      keys: [{ key: "kRecorded", s: 1, of: "recorded", ...accent }],
    }),
    chartPanel({
      id: "backlog", title: "backlogChart", blankKey: "chartNoBacklog", line: "seckill redis-cli XINFO GROUPS 'seckill:{0}:orders'",
      keys: [{ key: "kWaiting", s: 1, of: "backlog", ...accent }],
    }),
    chartPanel({
      id: "window", title: "windowChart", sub: "last5here", blankKey: "chartNoOrders", value: span, unit: (ms) => (ms >= 1000 ? t("seconds", { n: ms / 1000 }) : t("ms", { n: ms })),
      line: "seckill psql -c \"select percentile_cont(.99) within group (order by recorded_at - claimed_at) from orders\"",
      keys: [{ key: "kWindow", s: 1, of: "window_p99_ms", ...accent }],
    }),
  ];
  const stock = stockPanel();
  return {
    nodes: [h("div", { class: "pair" }, parts.map((part) => part.node)), stock.node],
    paint() { parts.forEach((part) => part.paint()); stock.paint(); },
  };
}
