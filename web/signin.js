// The panel above the coupons for visitors who are not signed in, and the name at the top for those who are.
import { h, text } from "./dom.js";
import { t } from "./i18n.js";
import { signInAs } from "./session.js";
import { session } from "./shop.js";

const $ = (id) => document.getElementById(id);
let shown = "";

/** Makes the panel again only if it shows something else: a name that is being typed stays. */
export function paintSignIn(language) {
  $("who").hidden = !session.user;
  text($("user"), session.user ?? "");
  $("user").title = session.user ?? "";
  const box = $("signin");
  box.hidden = !!session.user;
  const key = JSON.stringify([language, session.demo, session.users, session.isExpired, session.wrong]);
  // The room is kept until it is known what stands there.
  if (box.hidden || key === shown || !session.isKnown && !session.isExpired) return;
  shown = key;
  box.setAttribute("aria-label", t("signIn"));
  box.replaceChildren(h("p", {}, t(session.isExpired ? "expiredWho" : session.demo ? "demoWho" : "shopWho")), ...(session.demo ? choices() : [h("p", {}, t("shopDev"))]));
}

function choices() {
  const name = h("input", { class: "input", id: "name", "aria-label": t("anyName"), placeholder: t("anyName"), autocomplete: "off", maxlength: 128, spellcheck: "false" });
  return [
    ...session.users.map((user, i) => h("button", { type: "button", class: "button", "data-kind": i ? null : "go", "aria-label": t("continueAs", { u: user }), onclick: () => signInAs(user) }, i ? user : t("continueAs", { u: user }))),
    h("form", { onsubmit: (event) => { event.preventDefault(); if (name.value.trim()) signInAs(name.value.trim()); } },
      name, h("button", { type: "submit", class: "button" }, t("continue"))),
    session.wrong && h("p", { class: "wrong", role: "alert" }, t("nameWrong", { why: session.wrong })),
  ].filter(Boolean);
}

export function focusSignIn() {
  const box = $("signin");
  box.scrollIntoView({ block: "nearest" });
  (box.querySelector("button") ?? box).focus();
}
