// The server's clock, as this page estimates it. The computer's own clock is never read: it may be wrong by hours.

/** Samples that are remembered: enough to get past a slow answer, few enough to follow a clock that was set. */
const SAMPLES = 30;
const samples = [];
let offset = null;

/**
 * Notes that the server's clock was at `time` (RFC 3339) before `gotAt`; with `sentAt` also after it (performance.now()).
 * What was under way for long makes the estimate late, so the fastest sample counts, plus half of the shortest round trip.
 */
export function noteServerTime(time, gotAt, sentAt) {
  const ms = Date.parse(time);
  if (Number.isNaN(ms)) return;
  samples.push({ behind: ms - gotAt, half: sentAt === undefined ? Infinity : (gotAt - sentAt) / 2 });
  if (samples.length > SAMPLES) samples.shift();
  const half = Math.min(...samples.map((sample) => sample.half));
  offset = Math.max(...samples.map((sample) => sample.behind)) + (Number.isFinite(half) ? half : 0);
}

/** As `noteServerTime`, for an answer that contradicts the estimate: the earlier samples are forgotten. */
export function correctServerTime(time, gotAt, sentAt) {
  samples.length = 0;
  noteServerTime(time, gotAt, sentAt);
}

/** ms since 1970 by the server's clock; null while it is unknown. */
export const now = () => (offset === null ? null : performance.now() + offset);
