// What is said to those who do not see the page: outcomes, and the few moments of a countdown that matter.
import { say } from "./dom.js";
import { t } from "./i18n.js";
import { coupons, stateAt } from "./shop.js";
import { countdown } from "./view.js";

/** Words that come within this time are said together: the later ones would else cut the earlier ones off; ms. */
const TOGETHER = 1500;
/** More than this many would take longer to hear than they are of use. */
const MOST = 3;
let recent = [];

export function tell(words) {
  const at = performance.now();
  if (!words) recent = [];
  else if (recent.at(-1)?.words !== words || at - recent.at(-1).at >= TOGETHER) {
    recent = [...recent.filter((one) => at - one.at < TOGETHER), { words, at }].slice(-MOST);
  }
  say(recent.map((one) => one.words).join(" "));
}

/** A countdown is said at a minute, at ten seconds and at the opening; never in between. */
const said = new Map();
export function announce(at) {
  if (at === null) return;
  for (const { id, title, starts_at: starts, state } of coupons.values()) {
    if (!starts || state === "paused" || state === "ended") continue;
    const left = starts - at;
    const step = left <= 0 ? "open" : left <= 10_000 ? "10" : left <= 60_000 ? "60" : "far";
    const before = said.get(id);
    said.set(id, step);
    if (step === before || step === "far" || before === undefined && step === "open") continue;
    tell(step === "open" ? t("announceOpen", { title }) : t("announceIn", { title, d: countdown(left) }));
  }
  const starts = [...coupons.values()].filter((coupon) => stateAt(coupon, at) === "scheduled").map((coupon) => coupon.starts_at - at);
  const next = Math.min(...starts);
  const title = next < 3_600_000 ? `${countdown(next)} · ${t("title")}` : t("title");
  if (document.title !== title) document.title = title;
}
