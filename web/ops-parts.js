// Parts that the panels of the operations page share: command lines, panels, tables, lists that come in pages.
import { copy, h, icon, mark, morph, text } from "./dom.js";
import { t } from "./i18n.js";
import { clock, now } from "./ops-state.js";
import { read } from "./ops-session.js";

/** A line for a terminal, with a button that copies it. */
export function command(line) {
  const code = h("code", {}, line);
  const name = h("span", { class: "vh" }, ` ${line}`);
  const button = h("button", { type: "button", class: "button", onclick: () => copy(button, code.textContent, t("copied"), code) }, icon("copy"), h("span", {}, t("copy")), name);
  return h("div", { class: "cmd" }, code, button);
}

/** Puts another line into the command of a panel. */
export function showCommand(panel, line) {
  text(panel.querySelector(".cmd code"), line);
  text(panel.querySelector(".cmd .vh"), ` ${line}`);
}

/** A button whose press the panel handles: see `actions`. `about` is read to who does not see the row. */
export function act(name, key, { about, of, ...more } = {}) {
  return h("button", { type: "button", class: "button", "data-act": name, "data-of": of, ...more }, t(key), about != null && h("span", { class: "vh" }, ` ${about}`));
}

/** Calls handlers[name](of, button) for a press. Nodes outlive a refresh, so a handler looks its row up when called. */
export function actions(node, handlers) {
  node.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (!button || button.getAttribute("aria-disabled") === "true") return;
    handlers[button.dataset.act]?.(button.dataset.of, button);
  });
}

export function panel(id, title, { sub, end, body, line }) {
  return h("section", { class: "panel", "aria-labelledby": `${id}-title`, id },
    h("div", { class: "panel-head" }, h("h2", { id: `${id}-title` }, title), sub && h("span", { class: "sub" }, sub), end && h("div", { class: "end" }, end)),
    h("div", { class: "panel-body" }, body), line && command(line));
}

/** rows: { key, cells: nodes or text }; a column is { key, n: number, wide: on its own line on a phone } */
export function table(name, columns, rows) {
  return h("div", { class: "scroll" }, h("table", { class: "slips", role: "table", "aria-label": name },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((c) => h("th", { role: "columnheader", scope: "col", class: c.n && "n" }, c.hide ? h("span", { class: "vh" }, t(c.key)) : t(c.key))))),
    h("tbody", { role: "rowgroup" }, rows.map(({ key, cells }) => h("tr", { role: "row", "data-key": key }, cells.map((cell, i) =>
      h("td", { role: "cell", class: [columns[i].n && "n", columns[i].wide && "wide"].filter(Boolean).join(" ") || null, "data-l": columns[i].label === false ? null : t(columns[i].key) }, cell)))))));
}

export const none = (...words) => h("div", { class: "none" }, ...words);

export function banner(tone, words, end) {
  return h("div", { class: "banner", "data-tone": tone }, h("span", {}, mark(tone || "warn"), words), end);
}

/** A command with a statement for psql. */
export const psql = (sql) => `seckill psql -c "${sql.replace(/[\\"$`]/g, "\\$&")}"`;
/** A text in a statement. */
export const literal = (words) => `'${words.replaceAll("'", "''")}'`;

/** Bars in place of rows that are not there yet. */
export const bones = (rows = 3) => h("div", { class: "bones" }, h("p", { class: "vh" }, t("reading")), Array.from({ length: rows }, () => h("span", { class: "bone", "aria-hidden": "true" }, "…")));

export const problemWords = (problem) => t("panelError", { why: problem.message, id: problem.id || "–" });

const PAGE_MAX_ROWS = 200;

/** A list that the API gives in pages. A refresh reads as many rows as are shown. */
export class Pages {
  rows = null;
  next = null;
  problem = null;
  /** When the rows were read, by the server's clock. */
  readAt = null;
  #triedAt = -Infinity;
  #running = null;
  #again = false;

  /** path(): the address of the list with its filters, or of one thing; changed(): called after each answer */
  constructor(path, size, changed) {
    Object.assign(this, { path, size, changed });
  }

  /** Forgets the rows, because the filter has changed, and reads the first page. */
  restart() {
    this.rows = null;
    this.next = null;
    this.problem = null;
    return this.refresh();
  }

  /** Reads again what is shown. While it runs, further calls lead to one more run. */
  refresh() {
    if (this.#running) { this.#again = true; return this.#running; }
    this.#running = this.#read(Math.max(this.size, this.rows?.length ?? 0)).finally(() => {
      this.#running = null;
      if (this.#again) { this.#again = false; this.refresh(); }
    });
    return this.#running;
  }

  /** Refreshes if the last try is older than this; whether it does. */
  keep(ageMs) {
    const isDue = !this.#running && performance.now() - this.#triedAt > ageMs;
    if (isDue) this.refresh();
    return isDue;
  }

  async more() {
    if (this.#running) await this.#running;
    if (this.next == null) return;
    this.#running = this.#read((this.rows?.length ?? 0) + this.size).finally(() => { this.#running = null; });
    await this.#running;
  }

  async #read(wanted) {
    this.#triedAt = performance.now();
    const path = this.path();
    const rows = [];
    let after = null;
    try {
      do {
        const query = new URLSearchParams({ limit: Math.min(PAGE_MAX_ROWS, wanted - rows.length) });
        if (after != null) query.set("after", after);
        const page = await read(`${path}${path.includes("?") ? "&" : "?"}${query}`);
        rows.push(...(page.items ?? [page]));
        after = page.next ?? null;
      } while (after != null && rows.length < wanted);
      if (path !== this.path()) { this.#again = true; return; }
      Object.assign(this, { rows, next: after, problem: null, readAt: now() });
    } catch (problem) {
      this.problem = problem;
    }
    this.changed();
  }

  /** The body of a panel: the rows, or why there are none. `draw(rows)` makes the table. */
  body(draw, empty) {
    const failed = this.problem && banner("bad", [problemWords(this.problem), this.rows && ` ${t("panelOld", { t: clock(this.readAt) })}`].filter(Boolean).join(""));
    if (!this.rows) return failed || bones();
    return [failed, this.rows.length ? draw(this.rows) : empty(), this.next != null && h("div", { class: "more" }, act("more", "more"))].filter(Boolean);
  }
}

/** Shows the next page. The button may be gone then: the focus goes on to what follows it. */
export async function showMore(list, node) {
  await list.more();
  if (document.activeElement === document.body) node.querySelector(".cmd .button")?.focus();
}

/** Patches a panel in place; its listeners, focus and selection stay. */
export const repaint = (node, fresh) => morph(node, fresh);
