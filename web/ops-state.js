// What the page knows: the last status, the points of five minutes, the server's clock, and how times are shown.
import { locale } from "./i18n.js";

/** Seconds that the charts show. */
export const WINDOW_SECONDS = 300;
/** After this time without a status nothing is shown as current. */
const FRESH_MS = 5_000;

export const ops = {
  /** The last `status` event. */
  status: null,
  /** When it arrived, by `performance.now()`. */
  heardAt: -Infinity,
  /** Points by their second, also those of an earlier process of the server. */
  points: new Map(),
  /** The state of the stream: see ops-stream.js. */
  link: { phase: "connecting" },
  /** `UTC`, or empty for the browser's time zone. */
  zone: "UTC",
};

const listeners = new Set();
/** Calls back after each status. */
export const onStatus = (callback) => listeners.add(callback);

export function addPoints(points) {
  for (const point of points) ops.points.set(point.t, point);
  const last = Math.max(...ops.points.keys());
  for (const second of ops.points.keys()) if (second < last - WINDOW_SECONDS) ops.points.delete(second);
}

export function setStatus(status) {
  ops.status = status;
  ops.heardAt = performance.now();
  if (status.point) addPoints([status.point]);
  listeners.forEach((callback) => callback(status));
}

export const isStale = () => performance.now() - ops.heardAt > FRESH_MS;
export const heard = () => ops.status != null;

/** The server's time at the last status: Redis's clock, or that of the server while Redis gives no answer. */
export const lastHeard = () => (ops.status.server_time ? Date.parse(ops.status.server_time) : ops.status.point.t * 1000);
/** The server's clock: its last time, and what has passed here since. */
export const now = () => (ops.status ? lastHeard() + performance.now() - ops.heardAt : Date.now());

const made = new Map();
function format(ms, options) {
  const key = `${locale()} ${ops.zone} ${JSON.stringify(options)}`;
  if (!made.has(key)) made.set(key, new Intl.DateTimeFormat(locale(), { ...options, hourCycle: "h23", timeZone: ops.zone || undefined }));
  return made.get(key).format(ms);
}
const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const DAY = { year: "numeric", month: "short", day: "numeric" };

const instant = (time) => (typeof time === "number" ? time : Date.parse(time));
/** 14:02:13 */
export const clock = (time) => format(instant(time), TIME);
/** 14:02:13 today, otherwise with its day */
export function when(time) {
  const ms = instant(time);
  return format(ms, DAY) === format(now(), DAY) ? format(ms, TIME) : format(ms, { ...DAY, hour: "2-digit", minute: "2-digit" });
}
/** 14:02 today, otherwise with its day */
export function minute(time) {
  const ms = instant(time);
  const { hour, minute: of } = TIME;
  return format(ms, format(ms, DAY) === format(now(), DAY) ? { hour, minute: of } : { ...DAY, hour, minute: of });
}
/** 14:02:13.045, with its day if it is another one */
export function exact(time) {
  const ms = instant(time);
  return format(ms, format(ms, DAY) === format(now(), DAY) ? { ...TIME, fractionalSecondDigits: 3 } : { ...DAY, ...TIME, fractionalSecondDigits: 3 });
}

/** The day and the time with milliseconds, for paper. */
export const full = (time) => format(instant(time), { ...DAY, ...TIME, fractionalSecondDigits: 3 });

export const zoneName = () => ops.zone || Intl.DateTimeFormat().resolvedOptions().timeZone;
/** The value of a datetime-local input, read in the chosen zone; null if it is empty. */
export const fromInput = (value) => (value ? new Date(ops.zone ? `${value}Z` : value).toISOString() : null);
/** The value for a datetime-local input. */
export function toInput(time) {
  if (!time) return "";
  const date = new Date(time);
  const shown = ops.zone ? date : new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return shown.toISOString().slice(0, 19);
}
