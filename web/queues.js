// Queues: how many messages wait for what, what holds them back, and the dead letters with what can be done about them.

import { useCallback, useState } from "./vendor/hooks.js";
import { count, html, plural, Problem, span, timestamp } from "./ui.js";
import { deadLetters, describeQueue, endDead, listQueues, problemOf } from "./api.js";
import { cut, keyText, valueText } from "./topic.js";
import { usePolling } from "./topics.js";

const STATES = ["ready", "leased", "delayed", "blocked", "parked", "dead"];
const DEAD_ROWS = 100;
/** Rows of one queue's partitions. */
const MOST_PARTITIONS = 500;

const title = (word) => word[0].toUpperCase() + word.slice(1);


/** How a count of messages in a state looks. */
const TONES = { ready: "good", leased: "good", delayed: "wait", blocked: "wait", parked: "bad", dead: "bad" };

/** `undefined` where nothing is ready. */
const age = (ms) => (ms === undefined ? "–" : span(ms));

const since = (ms) => html`<time datetime=${timestamp(ms)} title=${timestamp(ms)}>${span(Math.max(0, Date.now() - ms))}</time>`;

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
          ${STATES.map((state) => html`<th scope="col" class="number" key=${state}>${title(state)}</th>`)}
          <th scope="col" class="number">Oldest ready</th>
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
    <p class="crumbs"><a href="#/queues">Queues</a></p>
    <h1>${name}${" "}<span class="muted">${queue && html`on ${queue.topic_deleted ? `${queue.topic}, which was deleted` : html`<a href=${`#/topics/${queue.topic}`}>${queue.topic}</a>`}`}</span></h1>
    <${Problem} problem=${failed ?? problem} />
    ${queue && html`
      <p class="chips">${STATES.map((state) => html`
        <span key=${state} class=${`chip ${queue[state] > 0 ? TONES[state] : "idle"}`} data-state=${state}>${state} ${count(queue[state])}</span>`)}
      </p>
      <${Facts} queue=${queue} />
      <${Blocks} blocks=${queue.blocked_by ?? []} />
    `}
    ${dead && html`<${Dead} dead=${dead} end=${end} />`}
    ${queue && queue.partitions.length > 1 && html`<${Partitions} partitions=${queue.partitions} />`}
  `;
}

const EXHAUSTED = { dead: "a dead letter", park_key: "parked, and its key waits", skip: "skipped" };

function Facts({ queue }) {
  return html`<p class="facts">
    <span>Oldest ready: ${age(queue.oldest_ready_age_ms)}</span>
    <span>${count(queue.acked)} acknowledged</span>
    <span>${count(queue.skipped)} skipped</span>
    <span>${count(queue.discarded)} discarded</span>
    <span>${count(queue.lost)} lost to retention</span>
  </p>
  <p class="muted">
    ${queue.order === "key" ? "Messages of a key are delivered one after the other." : "Messages are delivered in any order."}${" "}
    A lease holds ${span(queue.lease_ms)}; after ${plural(queue.max_deliveries, "delivery", "deliveries")} a message is${" "}
    ${EXHAUSTED[queue.on_exhausted] ?? queue.on_exhausted}.
  </p>`;
}

function Partitions({ partitions }) {
  return html`<h2>Partitions</h2>
    <div class="scroll"><table>
      <thead><tr>
        <th scope="col" class="number">Partition</th><th scope="col" class="number">Settled below</th>
        ${STATES.map((state) => html`<th scope="col" class="number" key=${state}>${title(state)}</th>`)}
      </tr></thead>
      <tbody>
        ${partitions.slice(0, MOST_PARTITIONS).map((part) => html`<tr key=${part.partition}>
          <td class="number">${part.partition}</td><td class="number">${count(part.start_offset)}</td>
          ${STATES.map((state) => html`<td class="number" key=${state}>${count(part[state])}</td>`)}
        </tr>`)}
      </tbody>
    </table></div>
    ${partitions.length > MOST_PARTITIONS && html`<p class="muted">The first ${count(MOST_PARTITIONS)} of ${count(partitions.length)} partitions.</p>`}`;
}

function Blocks({ blocks }) {
  if (blocks.length === 0) return null;
  return html`<h2>What holds messages back</h2>
    <ul>
      ${blocks.map((block) => html`<li key=${`${block.partition}@${block.offset}`} data-block=${block.reason}>
        ${block.reason === "held-full"
          ? html`Partition ${block.partition} holds as many back as it may, and takes no new ones.`
          : html`${plural(block.waiting, "message")} behind key <code>${keyText(block) ?? "?"}</code>,${" "}
              ${block.state} at <span class="where">${block.partition}@${block.offset}</span>${" "}
              for ${since(block.since_ms)}.`}
      </li>`)}
    </ul>`;
}

function Dead({ dead, end }) {
  if (dead.messages.length === 0) return html`<p class="muted">No dead letters.</p>`;
  const at = ({ partition, offset }) => ({ messages: [{ partition, offset }] });
  const discardAll = () => confirm("Discard every dead letter and parked message of this queue?") && end("discard", { all: true });
  const discard = (message) =>
    confirm(`Discard message ${message.partition}@${message.offset} for good?`) && end("discard", at(message));
  return html`<h2>Dead letters and parked messages</h2>
    <p class="row">
      <button onClick=${() => end("redrive", { all: true })}>Redrive all</button>
      <button class="quiet" onClick=${discardAll}>Discard all</button>
    </p>
    <div class="scroll">
      <table class="dead">
        <thead><tr>
          <th scope="col">Message</th><th scope="col">State</th><th scope="col" class="number">Attempts</th>
          <th scope="col">Key</th><th scope="col">Value</th><th scope="col">Reason</th>
          <th scope="col"><span class="hidden">What to do</span></th>
        </tr></thead>
        <tbody>
          ${dead.messages.map((message) => html`<tr key=${`${message.partition}@${message.offset}`} data-dead=${`${message.partition}@${message.offset}`}>
            <th scope="row" class="where">${message.partition}@${message.offset}</th>
            <td title=${`given up ${timestamp(message.given_up_ms)}`}>${message.state}</td>
            <td class="number">${count(message.attempts)}</td>
            <td class="key">${message.record && keyText(message.record)}</td>
            <td class="value">${message.gone ? html`<em>the record is gone</em>` : cut(valueText(message.record)[1])}</td>
            <td>${message.reason}</td>
            <td class="links">
              <button class="quiet" onClick=${() => end("redrive", at(message))}>Redrive</button>${" "}
              <button class="quiet" onClick=${() => discard(message)}>Discard</button>
            </td>
          </tr>`)}
        </tbody>
      </table>
    </div>
    ${dead.next_page_token && html`<p class="muted">The first ${count(dead.messages.length)}. <code>sluice queue dead</code> shows all.</p>`}`;
}
