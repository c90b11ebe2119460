// Queues: how many messages wait for what, what holds them back, and the dead letters with what can be done about them.

import { useCallback, useState } from "./vendor/hooks.js";
import { count, html, plural, Problem, timestamp } from "./ui.js";
import { deadLetters, describeQueue, endDead, listQueues, problemOf } from "./api.js";
import { usePolling } from "./topics.js";

const STATES = ["ready", "leased", "delayed", "blocked", "parked", "dead"];
const DEAD_ROWS = 100;

/** Milliseconds as people say it. */
function age(ms) {
  if (ms === undefined) return "–";
  const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1_000]];
  const [unit, size] = units.find(([, size]) => ms >= size) ?? ["ms", 1];
  return `${count(Math.floor(ms / size))} ${unit}`;
}

export function QueuesView() {
  const [queues, setQueues] = useState();
  const refresh = useCallback(async (signal) => setQueues(await listQueues(signal)), []);
  const problem = usePolling(refresh, [refresh]);
  return html`
    <h1>Queues</h1>
    <${Problem} problem=${problem} />
    ${queues && queues.length === 0 && html`<section class="panel empty">
      <h2>No queues yet</h2>
      <p>A queue hands out the records of a topic one by one, and each is acknowledged on its own:</p>
      <pre><code>${`sluice queue create work --topic scores --order key
sluice queue work work --exec 'cat; echo'`}</code></pre>
    </section>`}
    ${queues && queues.length > 0 && html`<div class="scroll">
      <table class="topics">
        <thead><tr>
          <th scope="col">Queue</th>
          <th scope="col">Topic</th>
          ${STATES.map((state) => html`<th scope="col" class="number" key=${state}>${state}</th>`)}
          <th scope="col" class="number">oldest ready</th>
        </tr></thead>
        <tbody>
          ${queues.map((queue) => html`<tr key=${queue.name} data-queue=${queue.name}>
            <th scope="row"><a href=${`#/queues/${queue.name}`}>${queue.name}</a></th>
            <td>${queue.topic_deleted ? html`<span class="muted">${queue.topic} (deleted)</span>` : html`<a href=${`#/topics/${queue.topic}`}>${queue.topic}</a>`}</td>
            ${STATES.map((state) => html`<td class="number" key=${state} data-state=${state}>${count(queue[state])}</td>`)}
            <td class="number">${age(queue.oldest_ready_age_ms)}</td>
          </tr>`)}
        </tbody>
      </table>
    </div>`}
  `;
}

export function QueueView({ queue: name }) {
  const [queue, setQueue] = useState();
  const [dead, setDead] = useState();
  const [failed, setFailed] = useState();
  const refresh = useCallback(async (signal) => {
    const [described, letters] = await Promise.all([describeQueue(name, signal), deadLetters(name, DEAD_ROWS, signal)]);
    setQueue(described);
    setDead(letters);
  }, [name]);
  const problem = usePolling(refresh, [refresh]);
  const end = async (what, filter) => {
    try {
      await endDead(name, what, filter);
      setFailed(undefined);
      await refresh();
    } catch (error) {
      setFailed(problemOf(error));
    }
  };
  return html`
    <h1>${name} <span class="muted">${queue && `on ${queue.topic}`}</span></h1>
    <${Problem} problem=${failed ?? problem} />
    ${queue && html`
      <p>${STATES.map((state) => html`<span key=${state} class="chip idle" data-state=${state}>${state} ${count(queue[state])}</span> `)}</p>
      <p class="muted">
        ${plural(queue.acked, "message")} acknowledged, ${count(queue.skipped)} skipped, ${count(queue.discarded)} discarded,
        ${count(queue.lost)} lost to retention. Oldest ready: ${age(queue.oldest_ready_age_ms)}.
        ${queue.order === "key" ? "Messages of a key are delivered one after the other." : "Order is free."}
      </p>
      <${Blocks} blocks=${queue.blocked_by ?? []} />
    `}
    ${dead && html`<${Dead} dead=${dead} end=${end} />`}
  `;
}

function Blocks({ blocks }) {
  if (blocks.length === 0) return null;
  return html`<h2>What holds messages back</h2>
    <ul>
      ${blocks.map((block) => html`<li key=${`${block.partition}@${block.offset}`}>
        ${block.reason === "held-full"
          ? html`Partition ${block.partition} holds as many back as it may, and takes no new ones.`
          : html`${plural(block.waiting, "message")} behind key <code>${block.key ?? block.key_base64 ?? "?"}</code>,
              ${block.state} at <span class="where">${block.partition}@${block.offset}</span>
              since <time title=${timestamp(block.since_ms)}>${age(Math.max(0, Date.now() - block.since_ms))}</time>.`}
      </li>`)}
    </ul>`;
}

function Dead({ dead, end }) {
  if (dead.messages.length === 0) return html`<p class="muted">No dead letters.</p>`;
  const at = ({ partition, offset }) => ({ messages: [{ partition, offset }] });
  const discardAll = () => confirm("Discard every dead letter and parked message of this queue?") && end("discard", { all: true });
  return html`<h2>Dead letters and parked messages</h2>
    <p>
      <button onClick=${() => end("redrive", { all: true })}>Redrive all</button>${" "}
      <button onClick=${discardAll}>Discard all</button>
    </p>
    <div class="scroll">
      <table class="topics">
        <thead><tr>
          <th scope="col">Message</th><th scope="col">State</th><th scope="col" class="number">Attempts</th>
          <th scope="col">Key</th><th scope="col">Reason</th><th scope="col"><span class="hidden">What to do</span></th>
        </tr></thead>
        <tbody>
          ${dead.messages.map((message) => html`<tr key=${`${message.partition}@${message.offset}`} data-dead=${message.offset}>
            <th scope="row" class="where">${message.partition}@${message.offset}</th>
            <td>${message.gone ? "gone" : message.state}</td>
            <td class="number">${count(message.attempts)}</td>
            <td class="key">${message.record?.key ?? message.record?.key_base64 ?? ""}</td>
            <td>${message.reason}</td>
            <td class="links">
              <button onClick=${() => end("redrive", at(message))}>Redrive</button>${" "}
              <button onClick=${() => end("discard", at(message))}>Discard</button>
            </td>
          </tr>`)}
        </tbody>
      </table>
    </div>
    ${dead.next_page_token && html`<p class="muted">The first ${count(dead.messages.length)}. <code>sluice queue dead</code> shows all.</p>`}`;
}
