// Confirmations: a form in <dialog>. The title names the thing, the list says the effect, the button says the verb. A
// refusal is shown in the dialog, which stays open.
import { attribute, h, mark, say, text } from "./dom.js";
import { t } from "./i18n.js";

/**
 * fields and wide: nodes; effects: lines; go: the button's words, none for a dialog that only shows.
 * send(): the request; done(answer): after it; reload(): opens the dialog again with the present values.
 */
export function ask({ title, effects, fields = [], wide, go, kind = "go", size, send, done, reload, about }) {
  const list = h("ul", { class: "effect" });
  const trouble = h("div", { role: "alert" });
  const confirm = h("button", { type: "submit", class: "button", "data-kind": kind }, go ?? "");
  const close = h("button", { type: "button", class: "button", "data-close": true }, t(go ? "cancel" : "close"));
  const form = h("form", { method: "dialog", novalidate: true },
    h("h2", { id: "ask-title", tabindex: go ? null : "-1" }, title), ...fields, effects && list, wide, trouble,
    h("div", { class: "dialog-do" }, close, go && confirm));
  const box = h("dialog", { "aria-labelledby": "ask-title", "data-size": size }, form);
  const setEffects = (lines) => list.replaceChildren(...lines.map((line) => h("li", {}, h("span", {}, line))));
  const made = { box, confirm, setEffects, trouble, close: () => box.close() };

  function refused(problem) {
    const stale = problem.status === 412;
    const words = stale ? t("stale412", { c: about ?? title }) : !problem.status ? t("unknownDo")
      : problem.status === 503 || problem.status >= 500 ? t("busyDo", { why: problem.message }) : t("failedDo", { why: problem.message });
    const again = stale && reload && h("button", { type: "button", class: "button", onclick: () => { box.close(); reload(); } }, t("reload"));
    trouble.replaceChildren(h("div", { class: "banner", "data-tone": stale || !problem.status || problem.status === 503 ? "warn" : "bad" }, h("span", {}, mark(stale ? "warn" : "bad"), words), again));
    if (stale) attribute(confirm, "aria-disabled", "true");
    if (again) again.focus();
  }

  async function submit(event) {
    event.preventDefault();
    if (confirm.getAttribute("aria-disabled")) return;
    const words = confirm.textContent;
    trouble.replaceChildren();
    attribute(confirm, "aria-disabled", "true");
    text(confirm, t("sending"));
    try {
      const answer = await send();
      if (box.open) box.close();
      say(t("doneToast", { what: words }));
      done?.(answer);
    } catch (problem) {
      if (!(problem instanceof Error) || problem.status === undefined) throw problem;
      attribute(confirm, "aria-disabled", null);
      text(confirm, words);
      if (box.open) refused(problem);
      else say(t("failedDo", { why: problem.message }));
    }
  }

  if (effects) setEffects(effects);
  close.addEventListener("click", () => box.close());
  box.addEventListener("close", () => box.remove());
  form.addEventListener("submit", submit);
  document.body.append(box);
  box.showModal();
  return made;
}

/** Closes what is open, for example because the admin signed out. */
export const closeAll = () => document.querySelectorAll("dialog[open]").forEach((box) => box.close());

export function field(key, input, hint) {
  const id = `f-${key}`;
  input.id = id;
  input.classList.add("input");
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return h("div", { class: "field" }, h("label", { for: id }, t(key)), input, hint && h("span", { class: "hint", id: `${id}-hint` }, hint));
}

export const input = (type, more) => h("input", { type, autocomplete: "off", ...more });
export const numeric = (value) => input("text", { inputmode: "numeric", value });

/** Marks a field as right, or says what is wrong with it. */
export function mend(node, words, wrong) {
  attribute(node, "aria-invalid", wrong ? "true" : null);
  const hint = document.getElementById(`${node.id}-hint`);
  if (!hint) return;
  hint.className = wrong ? "hint wrong" : "hint";
  text(hint, words);
}

export const check = (key, more) => {
  const box = h("input", { type: "checkbox", ...more });
  return { box, node: h("label", { class: "check" }, box, h("span", {}, t(key))) };
};

/** A whole number, written with or without separators; NaN for anything else. */
export function whole(words) {
  const plain = words.trim().replace(/[\s,_']/g, "");
  return /^\d{1,15}$/.test(plain) ? Number(plain) : NaN;
}
