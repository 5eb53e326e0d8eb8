// A question before what cannot be undone. Native dialogs: the focus stays inside, and returns.
import { h } from "./dom.js";

/** Asks; true if the answer is `act`. `effects` say what it does. */
export function confirmed({ title, effects, act, keep }) {
  return new Promise((done) => {
    const id = "question";
    const end = (answer) => { dialog.close(); dialog.remove(); done(answer); };
    const dialog = h("dialog", { "aria-labelledby": id, oncancel: (event) => { event.preventDefault(); end(false); } },
      h("form", { onsubmit: (event) => event.preventDefault() },
        h("h2", { id }, title),
        h("ul", { class: "effect" }, effects.map((effect) => h("li", {}, effect))),
        h("div", { class: "dialog-do" },
          h("button", { type: "button", class: "button", autofocus: true, onclick: () => end(false) }, keep),
          h("button", { type: "button", class: "button", "data-kind": "bad", onclick: () => end(true) }, act))));
    document.body.append(dialog);
    dialog.showModal();
  });
}
