// Who is signed in. The token is kept in memory only: it is gone with the tab.
import { ask, askPatiently } from "./api.js";
import { changed, forgetUser, session } from "./shop.js";

/** Questions whether this is a demo: a demo says so only once its coupons are there. */
const MOST_QUESTIONS = 4;
let questions = 0;
let onUser = () => {};

function begin(user, token) {
  const isSame = session.user === user;
  if (!isSame) forgetUser();
  Object.assign(session, { user, token, isExpired: false, wrong: "" });
  changed();
  onUser();
}

export function signOut() {
  forgetUser();
  Object.assign(session, { user: null, token: null, isExpired: false });
  changed();
}

/** The server does not accept the token any more. What is known of the user's orders stays on the page. */
export function expire(token) {
  if (token !== session.token) return;
  Object.assign(session, { user: null, token: null, isExpired: true });
  changed();
}

/** Takes #token=… out of the address, so that no history, bookmark or screenshot keeps it. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  const user = subject(token);
  if (user) begin(user, token);
  else Object.assign(session, { isExpired: true });
}

/** The user's name in a token, only to show it: the server checks the token. */
function subject(token) {
  try {
    const part = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(part), (char) => char.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)).sub ?? null;
  } catch {
    return null;
  }
}

/** Asks how visitors sign in here. */
export async function learnSignIn() {
  if (session.demo || questions >= MOST_QUESTIONS) return;
  questions += 1;
  const answer = await ask("GET", "/v1/sign-in");
  if (!answer.ok) {
    questions -= 1;
    return;
  }
  Object.assign(session, { demo: answer.body.demo, users: answer.body.users, isKnown: true });
  changed();
}

/** Signs in as any user, in a demo. */
export async function signInAs(user) {
  const answer = await askPatiently("POST", "/v1/sign-in", { body: { user } });
  if (answer.ok) return begin(answer.body.user, answer.body.token);
  session.wrong = answer.detail || "no answer";
  changed();
}

export function startSession(signedIn) {
  onUser = signedIn;
  takeToken();
  addEventListener("hashchange", takeToken);
}
