// The latest value of each key of a topic, live: a card for a game, a row of a table for anything else.

import { useEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import { count, html, plural, Problem, StreamState, timeOfDay, timestamp } from "./ui.js";
import { Subscription } from "./stream.js";
import { keyText, valueText } from "./topic.js";

/** The page holds so many keys; more are counted, and not shown. */
const MOST_KEYS = 20_000;
const SHOWN_AT_FIRST = 60;
const DRAW_MS = 80;
const FLASH_MS = 4_000;

/** A game, as the World Cup events and `sluice demo` write it. */
const isGame = (value) =>
  typeof value?.team1 === "string" &&
  typeof value.team2 === "string" &&
  Array.isArray(value.score) &&
  value.score.length === 2 &&
  value.score.every(Number.isFinite);

/** Anything from a value as text; what a producer wrote is never to break the page. */
const shown = (part) => (typeof part === "object" ? JSON.stringify(part) : String(part));
const given = (part) => part !== undefined && part !== null;

/** Whether `a` takes the place of `b`, by the rule of the view: within a partition the offset, else the timestamp. */
const replaces = (a, b) =>
  a.partition === b.partition
    ? a.offset >= b.offset
    : a.timestamp_ms !== b.timestamp_ms
      ? a.timestamp_ms > b.timestamp_ms
      : a.partition > b.partition;

/** The latest record of each key. Changed in place. */
class Board {
  constructor() {
    this.clear();
  }

  clear() {
    this.rows = new Map();
    this.left_out = false;
  }

  /** Puts the rows in the order of time, as they come in the order of keys in a snapshot. */
  sort() {
    const rows = [...this.rows].sort(([, a], [, b]) => a.record.timestamp_ms - b.record.timestamp_ms);
    this.rows = new Map(rows);
  }

  /** Takes a record in. `live` once the snapshot is complete: only then does a goal flash. */
  apply(record, live) {
    const key = record.key !== undefined ? `s${record.key}` : `b${record.key_base64}`;
    if (record.key === undefined && record.key_base64 === undefined) return;
    const before = this.rows.get(key);
    if (before && !replaces(record, before.record)) return;
    if (record.tombstone) {
      this.rows.delete(key);
      return;
    }
    if (!before && this.rows.size >= MOST_KEYS) {
      this.left_out = true;
      return;
    }
    const goal = live && isGame(record.value) && record.value.type === "goal";
    const scored = goal ? performance.now() : before?.scored;
    // A row that changed goes to the end, so the last is always the newest.
    this.rows.delete(key);
    this.rows.set(key, { id: key, record, scored });
  }
}

export function BoardView({ topic }) {
  const [state, setState] = useState("connecting");
  const [problem, setProblem] = useState();
  const [most, setMost] = useState(SHOWN_AT_FIRST);
  const [wanted, setWanted] = useState("");
  const [drawn, setDrawn] = useState(0);
  const board = useRef();
  board.current ??= new Board();

  useEffect(() => {
    let live = false;
    let timer;
    const draw = () => {
      timer = undefined;
      setDrawn((n) => n + 1);
    };
    const soon = () => {
      timer ??= setTimeout(draw, DRAW_MS);
    };
    board.current.clear();
    const subscription = new Subscription(topic, { view: "latest" }, {
      record: (record) => {
        board.current.apply(record, live);
        soon();
      },
      problem: setProblem,
      reset: () => {
        live = false;
        board.current.clear();
        soon();
      },
      state: (name) => {
        if (name === "live") {
          if (!live) board.current.sort();
          live = true;
          soon();
          setProblem(undefined);
        }
        setState(name);
      },
    });
    subscription.open();
    return () => {
      subscription.close();
      clearTimeout(timer);
    };
  }, [topic]);

  const rows = useMemo(() => {
    const text = wanted.trim().toLowerCase();
    const all = [...board.current.rows.values()].reverse();
    return text ? all.filter(({ record }) => `${keyText(record)} ${valueText(record)[1]}`.toLowerCase().includes(text)) : all;
  }, [drawn, wanted]);
  const page = rows.slice(0, most);
  const games = page.filter(({ record }) => isGame(record.value));
  const others = page.filter(({ record }) => !isGame(record.value));

  return html`
    <div class="heading">
      <h1><span class="muted">Board</span> ${topic}</h1>
      <${StreamState} state=${state} />
      <a class="button" href=${`#/topics/${topic}`}>Tail</a>
    </div>
    <${Problem} problem=${problem} />
    <div class="inline">
      <label>Search <input type="search" value=${wanted} onInput=${(event) => setWanted(event.target.value)} placeholder="team, player, key" /></label>
      <span class="muted" data-keys=${board.current.rows.size}>${plural(rows.length, "key")}</span>
    </div>
    ${board.current.left_out && html`<p class="notice">This topic has more keys than the page holds; these are ${count(MOST_KEYS)} of them.</p>`}
    ${games.length > 0 && html`<ul class="games">${games.map((row) => html`<${Game} key=${row.id} row=${row} />`)}</ul>`}
    ${others.length > 0 && html`<${Values} rows=${others} />`}
    ${rows.length === 0 && state === "live" && html`<p class="muted">${wanted ? "Nothing matches." : "No keys here yet. Publish an event with a key, or run sluice demo."}</p>`}
    ${rows.length > most && html`<button type="button" onClick=${() => setMost(most * 2)}>Show more (${count(rows.length - most)} left)</button>`}
  `;
}

/** The number that turns a name into a hue, the same on every page. */
function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

const monogram = (name) =>
  name
    .split(/[^\p{L}]+/u)
    .filter(Boolean)
    .map((word, _at, words) => (words.length > 1 ? word[0] : word.slice(0, 3)))
    .join("")
    .slice(0, 3)
    .toUpperCase();

const minuteOf = (value) => `${shown(value.minute)}${given(value.stoppage) ? `+${shown(value.stoppage)}` : ""}′`;

/** What a game is doing: a label, and whether it is still played. */
function statusOf(value) {
  if (value.type === "full_time") return Array.isArray(value.penalties) ? [`FT, ${value.penalties.map(shown).join("–")} pens`, false] : ["Full time", false];
  if (value.type === "half_time") return ["Half time", true];
  if (value.type === "kickoff") return ["Kick-off", true];
  if (given(value.minute)) return [minuteOf(value), true];
  return [given(value.type) ? shown(value.type) : "", true];
}

function Team({ name, score, leads }) {
  return html`<div class=${leads ? "team leads" : "team"}>
    <span class="crest" style=${{ "--hue": hue(name) }} aria-hidden="true">${monogram(name)}</span>
    <span class="name">${name}</span>
    <span class="score">${String(score)}</span>
  </div>`;
}

function Game({ row }) {
  const { record, scored } = row;
  const { value } = record;
  const [status, playing] = statusOf(value);
  const [one, two] = value.score;
  const flash = scored !== undefined && performance.now() - scored < FLASH_MS;
  const where = [value.year, value.league, value.round, value.ground].filter(given).map(shown).join(" · ");
  return html`<li class=${`game${playing ? " playing" : ""}`} data-key=${keyText(record)}>
    <div class="top"><span class="where" title=${where}>${where || keyText(record)}</span><span class="status">${status}</span></div>
    <${Team} name=${value.team1} score=${one} leads=${one > two} />
    <${Team} name=${value.team2} score=${two} leads=${two > one} />
    ${flash && html`<div class="flash" key=${record.offset} aria-hidden="true">Goal!</div>`}
    <div class="last">${value.type === "goal" && given(value.player)
      ? html`${shown(value.player)} ${given(value.minute) && minuteOf(value)}${value.penalty ? " (pen.)" : ""}${value.owngoal ? " (o.g.)" : ""}`
      : html`<time datetime=${timestamp(record.timestamp_ms)}>${timeOfDay(record.timestamp_ms)}</time>`}</div>
  </li>`;
}

function Values({ rows }) {
  return html`<div class="scroll"><table class="values">
    <thead><tr><th scope="col">Key</th><th scope="col">Latest value</th><th scope="col">Time</th></tr></thead>
    <tbody>${rows.map(({ id, record }) => {
      const [kind, text] = valueText(record);
      return html`<tr key=${id} data-key=${keyText(record)}>
        <th scope="row">${keyText(record)}</th>
        <td class=${`value ${kind}`}>${text.length > 500 ? `${text.slice(0, 500)}…` : text}</td>
        <td><time datetime=${timestamp(record.timestamp_ms)}>${timeOfDay(record.timestamp_ms)}</time></td>
      </tr>`;
    })}</tbody>
  </table></div>`;
}
