// The consumers of the group that records orders, from the stream.
import { h, mark } from "./dom.js";
import { number, t } from "./i18n.js";
import { bones, none, panel, repaint, table } from "./ops-parts.js";
import { isStale, ops } from "./ops-state.js";
import { areAbsent, isSilent } from "./strip.js";
import { span } from "./view.js";

function cells(consumer) {
  const silent = isSilent(consumer, ops.status.backlog);
  const tone = silent ? "warn" : consumer.pending ? "ok" : "wait";
  const words = silent ? (consumer.pending ? "silent" : "silentEmpty") : consumer.pending ? "active" : "waitingW";
  return [
    [h("span", { class: "mono" }, consumer.name), h("br"), h("span", { class: "state" }, mark(isStale() ? "wait" : tone), t(words))],
    number(consumer.pending), span(consumer.idle_ms),
  ];
}

function body() {
  if (!ops.status) return bones();
  const { consumers } = ops.status;
  if (areAbsent()) return [none(t("noWorkers"), " ", h("code", {}, "seckill worker")), consumers?.length ? rows(consumers) : null].filter(Boolean);
  if (!consumers) return none(t("workersUnknown"));
  return consumers.length ? rows(consumers) : none(t("workersIdle"));
}

const rows = (consumers) => table(t("workers"), [{ key: "cWorker", wide: true, label: false }, { key: "cPending", n: true }, { key: "cIdle", n: true }],
  consumers.map((consumer) => ({ key: consumer.name, cells: cells(consumer) })));

/** The panel: { node, paint }. */
export function workersPanel() {
  const draw = () => panel("workers", t("workers"), { sub: [t("group"), ops.status?.workers != null && t("connected", { n: number(ops.status.workers) })].filter(Boolean).join(" · "), body: body(), line: "seckill redis-cli XINFO CONSUMERS 'seckill:{0}:orders' order-writers" });
  const node = draw();
  return { node, paint: () => repaint(node, draw()) };
}
