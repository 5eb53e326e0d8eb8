// The card of one coupon: made once, then only what differs is written, so that the button keeps its focus.
import { attribute, copy, h, icon, mark, text } from "./dom.js";
import { t } from "./i18n.js";
import { present } from "./view.js";

/** A longer figure is shown smaller, so that it keeps to one line; characters. */
const LONG = 9;
let made = 0;

/** `on`: { press, pay, giveBack, leave }, called without arguments. */
export function makeCard(on) {
  made += 1;
  const parts = {
    state: h("span"), mark: mark(""), figure: h("b"), unit: h("span"), facts: h("p", { class: "facts" }),
    title: h("h2"), bar: h("span", { class: "bar", "aria-hidden": "true" }),
    label: h("span"), note: h("span"), dots: h("span", { class: "dots", "aria-hidden": "true" }),
    id: h("code"), slip: h("div", { class: "slip", hidden: true }), named: h("span", { class: "vh" }),
  };
  const note = `note-${made}`;
  const title = `title-${made}`;
  parts.title.id = title;
  parts.spin = h("span", { class: "spin", "aria-hidden": "true", hidden: true });
  parts.check = icon("check");
  parts.button = h("button", { type: "button", class: "button grab", "aria-describedby": `${title} ${note}`, onclick: on.press }, parts.spin, parts.check, parts.label);
  parts.pay = h("button", { type: "button", class: "button grab pay", "data-kind": "go", "aria-describedby": title, hidden: true, onclick: on.pay });
  parts.back = h("button", { type: "button", class: "link", "aria-describedby": title, hidden: true, onclick: () => (parts.back.dataset.act === "leave" ? on.leave() : on.giveBack()) });
  parts.said = h("p", { class: "note", id: note }, parts.dots, parts.note);
  parts.copy = h("button", { type: "button", class: "icon-button", onclick: () => copy(parts.copy, parts.id.textContent, t("copied"), parts.id) }, icon("copy"));
  parts.slip.append(parts.named, parts.id, parts.copy);
  parts.line = h("p", { class: "figure" }, parts.figure, parts.unit);
  parts.root = h("li", { class: "coupon" },
    h("div", { class: "coupon-body" },
      h("div", { class: "coupon-top" }, parts.title, h("span", { class: "state" }, parts.mark, parts.state)),
      parts.line, parts.bar, parts.facts),
    h("div", { class: "coupon-stub" }, h("div", { class: "stub-row" }, parts.button, parts.pay),
      h("div", { class: "after" }, h("div", { class: "said" }, parts.said, parts.back), parts.slip)));
  return parts;
}

/** Shows the coupon as it is at this moment. Figures that are not fresh have hollow marks. */
export function paintCard(parts, coupon, standing, at, isFresh) {
  const view = present(coupon, standing, at);
  const { activeElement: focused } = document;
  text(parts.title, coupon.title);
  attribute(parts.root, "data-coupon", coupon.id);
  text(parts.state, view.state);
  attribute(parts.mark, "data-tone", isFresh ? view.tone : "wait");
  text(parts.figure, view.figure);
  attribute(parts.line, "data-long", view.figure.length > LONG && "");
  text(parts.unit, view.unit);
  attribute(parts.line, "role", view.timer && "timer");
  attribute(parts.root, "data-dim", view.dim && "");
  parts.bar.style.setProperty("--part", String(Math.min(1, view.stock / view.total)));
  const facts = view.facts.join("\n");
  if (parts.facts.dataset.is !== facts) {
    parts.facts.dataset.is = facts;
    parts.facts.replaceChildren(...view.facts.map((fact) => h("span", {}, fact)));
  }
  text(parts.label, view.button.label);
  attribute(parts.button, "data-kind", view.button.kind);
  attribute(parts.button, "aria-disabled", view.button.can ? null : "true");
  attribute(parts.button, "aria-busy", view.spin && "true");
  attribute(parts.spin, "hidden", view.spin ? null : "");
  attribute(parts.check, "hidden", view.button.kind === "held" ? null : "");
  text(parts.note, view.note);
  attribute(parts.said, "data-tone", view.noteTone || null);
  paintActions(parts, view.actions, standing.settling);
  paintSlip(parts, view.slip);
  // What has the focus may go by itself, such as at the end of the time to pay.
  if (parts.root.contains(focused) && focused.closest("[hidden]")) parts.button.focus();
}

function paintActions(parts, actions, settling) {
  attribute(parts.pay, "hidden", actions.includes("pay") ? null : "");
  attribute(parts.pay, "aria-disabled", settling ? "true" : null);
  attribute(parts.pay, "aria-busy", settling === "confirm" && "true");
  text(parts.pay, t(settling === "confirm" ? "paying" : "pay"));
  const back = actions.includes("leave") ? "leave" : "giveBack";
  attribute(parts.back, "hidden", actions.includes(back) ? null : "");
  attribute(parts.back, "data-act", back);
  attribute(parts.back, "aria-disabled", settling ? "true" : null);
  text(parts.back, t(back === "leave" ? "leaveLine" : "giveBack"));
}

/** The order under the button takes the place that notes have: nothing below it moves. */
function paintSlip(parts, slip) {
  attribute(parts.slip, "hidden", slip ? null : "");
  attribute(parts.dots, "hidden", slip?.steps.length ? null : "");
  if (!slip) return;
  text(parts.named, t("order"));
  text(parts.id, slip.id);
  attribute(parts.copy, "aria-label", t("copyOrder"));
  attribute(parts.copy, "title", t("copyOrder"));
  const done = slip.steps.map((step) => (step.done ? "1" : "0")).join("");
  if (parts.dots.dataset.is === done) return;
  parts.dots.dataset.is = done;
  parts.dots.replaceChildren(...slip.steps.map((step) => h("i", { "data-done": step.done && "" })));
}

/** What the card says under its button. */
export const noteOf = (parts) => parts.note.textContent;
