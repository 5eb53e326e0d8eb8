// Sign-in: the admin token, once for this tab.
import { attribute, h, say, text } from "./dom.js";
import { t } from "./i18n.js";
import { field } from "./ops-dialogs.js";
import { command } from "./ops-parts.js";
import { signIn } from "./ops-session.js";

/** notice: a text key that says why the session has ended; entered(): after the sign-in */
export function door(notice, entered) {
  const input = h("input", { type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const button = h("button", { type: "submit", class: "button", "data-kind": "go" }, t("signIn"));
  const show = (key, wrong) => {
    const hint = document.getElementById("f-token-hint");
    attribute(input, "aria-invalid", wrong ? "true" : null);
    text(hint, t(key));
    hint.className = wrong ? "hint wrong" : "hint";
  };
  let busy = false;
  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    busy = true;
    text(button, t("signingIn"));
    const refusal = await signIn(input.value.trim());
    busy = false;
    text(button, t("signIn"));
    if (!refusal) return entered();
    show(refusal, true);
    say(t(refusal));
    input.focus();
    input.select();
  }
  const form = h("form", { onsubmit: submit },
    h("h1", {}, t("tokenTitle")), notice && h("p", { class: "notice" }, t(notice)), field("token", input, t("tokenHint")), button,
    h("div", { class: "field" }, h("span", { class: "hint" }, t("tokenWhere")), command("cat ./data/admin-token")));
  return h("div", { class: "door" }, form);
}
