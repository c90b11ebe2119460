// One topic: its partitions, a live tail of its records, and a form that publishes to it.

import { useCallback, useEffect, useRef, useState } from "./vendor/hooks.js";
import { bytes, count, html, plural, Problem, StreamState, timeOfDay, timestamp } from "./ui.js";
import { describeTopic, problemOf, publish } from "./api.js";
import { Subscription } from "./stream.js";
import { recordsOf, sizeOf, usePolling } from "./topics.js";

/** The list is bounded; what leaves it is still in the log. */
const MOST_LINES = 200;
/** The screen is drawn anew at most this often, whatever arrives. */
const DRAW_MS = 80;
/** Longer values are cut on the screen. */
const MOST_CHARACTERS = 2_000;

export function TopicView({ topic }) {
  const [description, setDescription] = useState();
  const refresh = useCallback(async (signal) => setDescription(await describeTopic(topic, signal)), [topic]);
  const problem = usePolling(refresh, [refresh]);
  return html`
    <div class="heading">
      <h1><span class="muted">Topic</span> ${topic}</h1>
      <a class="button" href=${`#/board/${topic}`}>Board</a>
    </div>
    <${Problem} problem=${problem} />
    ${description && html`<${Partitions} topic=${description} />`}
    <${Publish} topic=${topic} />
    <${Tail} topic=${topic} />
  `;
}

function Partitions({ topic }) {
  return html`
    <p class="facts">
      <span>${plural(topic.partitions.length, "partition")}</span>
      <span data-records=${recordsOf(topic)}>${plural(recordsOf(topic), "record")}</span>
      <span>${bytes(sizeOf(topic))}</span>
    </p>
    <details class="panel">
      <summary>Partitions and configuration</summary>
      <div class="scroll"><table>
        <thead><tr>
          <th scope="col" class="number">Partition</th><th scope="col" class="number">Leader</th>
          <th scope="col" class="number">Epoch</th><th scope="col" class="number">Log start</th>
          <th scope="col" class="number">High watermark</th><th scope="col" class="number">Size</th>
        </tr></thead>
        <tbody>${topic.partitions.map((p) => html`<tr key=${p.partition}>
          <td class="number">${p.partition}</td><td class="number">${p.offline ? "offline" : (p.leader ?? "none")}</td>
          <td class="number">${p.leader_epoch}</td><td class="number">${count(p.log_start_offset)}</td>
          <td class="number">${count(p.high_watermark)}</td><td class="number">${bytes(p.size_bytes)}</td>
        </tr>`)}</tbody>
      </table></div>
      ${topic.config && html`<dl class="config">${Object.entries(topic.config).map(([name, value]) => html`
        <div key=${name}><dt><code>${name}</code></dt><dd>${String(value)}</dd></div>`)}</dl>`}
    </details>`;
}

function Publish({ topic }) {
  const [receipt, setReceipt] = useState();
  const [problem, setProblem] = useState();
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const { key, body, tombstone } = Object.fromEntries(new FormData(event.target));
    let contentType = "application/json";
    try {
      JSON.parse(body);
    } catch {
      contentType = "text/plain; charset=utf-8";
    }
    setBusy(true);
    try {
      setReceipt(await publish(topic, { key, body, contentType, tombstone: tombstone === "on" }));
      setProblem(undefined);
    } catch (error) {
      setReceipt(undefined);
      setProblem(problemOf(error));
    } finally {
      setBusy(false);
    }
  };
  return html`
    <details class="panel">
      <summary>Publish an event</summary>
      <form class="publish" onSubmit=${submit} aria-label="Publish an event">
        <label>Key <input name="key" autocomplete="off" spellcheck=${false} placeholder="none" /></label>
        <label>Value <textarea name="body" rows="3" spellcheck=${false} placeholder='{"home":1,"away":0}'></textarea></label>
        <div class="row">
          <button disabled=${busy}>Publish</button>
          <label class="check"><input type="checkbox" name="tombstone" /> delete the key (tombstone)</label>
          <span role="status">${receipt && `stored in partition ${receipt.partition} at offset ${count(receipt.offset)}`}</span>
        </div>
      </form>
      <${Problem} problem=${problem} />
    </details>`;
}

const STARTS = {
  recent: ["the last 20 of each partition", { last: "20" }],
  latest: ["now", { from: "latest" }],
  earliest: ["the beginning", { from: "earliest" }],
};

function Tail({ topic }) {
  const [start, setStart] = useState("recent");
  const [key, setKey] = useState("");
  const [paused, setPaused] = useState(false);
  const [state, setState] = useState("connecting");
  const [problem, setProblem] = useState();
  const [lines, setLines] = useState([]);
  const subscription = useRef();
  const seen = useRef(0);

  useEffect(() => {
    let kept = [];
    let next = 0;
    let timer;
    const draw = () => {
      timer = undefined;
      setLines(kept);
    };
    const add = (line) => {
      line.id = next++;
      kept = [line, ...kept.slice(0, MOST_LINES - 1)];
      timer ??= setTimeout(draw, DRAW_MS);
    };
    seen.current = 0;
    setLines([]);
    setProblem(undefined);
    const parameters = { ...STARTS[start][1], ...(key ? { key } : {}) };
    const live = new Subscription(topic, parameters, {
      record: (record) => {
        seen.current += 1;
        add({ record });
      },
      gap: (gap) => add({ gap }),
      problem: setProblem,
      state: (name) => {
        setState(name);
        if (name === "live") setProblem(undefined);
      },
    });
    subscription.current = live;
    setPaused(false);
    live.open();
    return () => {
      live.close();
      clearTimeout(timer);
    };
  }, [topic, start, key]);

  const toggle = () => {
    if (paused) subscription.current.open();
    else subscription.current.close();
    setPaused(!paused);
  };

  return html`
    <section aria-labelledby="tail">
      <div class="heading">
        <h2 id="tail">Live tail</h2>
        <${StreamState} state=${paused ? "paused" : state} />
      </div>
      <div class="inline">
        <label>Start at
          <select value=${start} onChange=${(event) => setStart(event.target.value)}>
            ${Object.entries(STARTS).map(([name, [label]]) => html`<option key=${name} value=${name}>${label}</option>`)}
          </select>
        </label>
        <label>Only the key <input type="search" value=${key} onChange=${(event) => setKey(event.target.value)} placeholder="all keys" spellcheck=${false} /></label>
        <button type="button" aria-pressed=${paused} onClick=${toggle}>${paused ? "Resume" : "Pause"}</button>
      </div>
      <${Problem} problem=${problem} />
      ${paused && html`<p class="muted">Paused: the cursor is kept, and the tail goes on from it.</p>`}
      <ol class="tail" aria-label="Records, newest first">
        ${lines.map((line) => line.gap
          ? html`<${Gap} key=${line.id} gap=${line.gap} />`
          : html`<${Line} key=${line.id} record=${line.record} />`)}
      </ol>
      ${lines.length === 0 && html`<p class="muted">No records here yet.</p>`}
      ${seen.current > MOST_LINES && html`<p class="muted">The newest ${count(MOST_LINES)} of ${count(seen.current)} that came in.</p>`}
    </section>`;
}

/** A record's value as text, and what kind it is. */
export function valueText(record) {
  if (record.tombstone) return ["tombstone", "deleted"];
  if (record.text !== undefined) return ["text", record.text];
  if (record.base64 !== undefined) return ["base64", record.base64];
  return ["json", JSON.stringify(record.value)];
}

/** A record's key as text; `undefined` when it has none. */
export const keyText = (record) => record.key ?? record.key_base64;

/** Text that is not too long for a screen. */
export const cut = (text) => (text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}…` : text);

function Line({ record }) {
  const [kind, text] = valueText(record);
  const headers = record.headers ?? [];
  return html`<li data-offset=${record.offset}>
    <span class="where" title="partition : offset">${record.partition}:${record.offset}</span>
    <time datetime=${timestamp(record.timestamp_ms)} title=${timestamp(record.timestamp_ms)}>${timeOfDay(record.timestamp_ms)}</time>
    <span class="key">${keyText(record) ?? html`<em>no key</em>`}</span>
    <span class=${`value ${kind}`} title=${headers.map((x) => `${x.name}: ${x.value ?? x.value_base64}`).join("\n")}>${cut(text)}</span>
  </li>`;
}

function Gap({ gap }) {
  return html`<li class="gap">
    Gap in partition ${gap.partition}: offsets ${count(gap.from_offset)} to ${count(gap.to_offset)} are missing (${gap.reason}).
  </li>`;
}
