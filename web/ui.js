// What every part of the page draws with: Preact bound to htm, and the small pieces that several views share.

import { h } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);

const integers = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
  hour12: false,
});

/** A count with thousands separated. */
export const count = (n) => integers.format(n);

/** A count with its noun. */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Bytes, in binary units. */
export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

/** A span of time as people say it. */
export function span(ms) {
  if (ms < 1000) return `${ms} ms`;
  const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]];
  const [unit, size] = units.find(([, size]) => ms >= size);
  return `${(ms / size).toFixed(ms / size < 10 ? 1 : 0)} ${unit}`;
}

/** A record's time on the reader's clock face. */
export const timeOfDay = (ms) => clock.format(new Date(ms));

/** A record's time in full, for a tooltip. */
export const timestamp = (ms) => new Date(ms).toISOString();

/** What went wrong, as the server said it (RFC 9457). */
export function Problem({ problem }) {
  if (!problem) return null;
  return html`<div class="notice error" role="alert">
    <strong>${problem.title ?? "Something went wrong"}</strong>
    ${problem.detail && html` <span>${problem.detail}</span>`}
    ${problem.code && html` <code>${problem.code}</code>`}
  </div>`;
}

const STATES = {
  connecting: ["wait", "Connecting"],
  snapshot: ["wait", "Loading"],
  catching_up: ["wait", "Catching up"],
  live: ["good", "Live"],
  paused: ["idle", "Paused"],
  retrying: ["bad", "Reconnecting"],
  ended: ["idle", "Ended"],
};

/** How a subscription is doing. */
export function StreamState({ state }) {
  const [tone, label] = STATES[state] ?? ["idle", state];
  return html`<span class=${`chip ${tone}`} role="status" data-state=${state}><span class="dot" aria-hidden="true"></span>${label}</span>`;
}
