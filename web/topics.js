// All topics with their size, and a form that makes one.

import { useCallback, useEffect, useState } from "./vendor/hooks.js";
import { bytes, count, html, Problem } from "./ui.js";
import { createTopic, describeTopic, listTopics, problemOf } from "./api.js";

const REFRESH_MS = 2_000;
/** Each row costs a call, so a long list shows its beginning. */
const MOST_ROWS = 100;
const CALLS_AT_ONCE = 6;

/** Records that can be read, over all partitions. */
export const recordsOf = (topic) =>
  topic.partitions.reduce((sum, p) => sum + Math.max(0, p.high_watermark - p.log_start_offset), 0);

/** Bytes of all partitions. */
export const sizeOf = (topic) => topic.partitions.reduce((sum, p) => sum + p.size_bytes, 0);

async function describeAll(names, signal) {
  const rows = new Array(names.length);
  let next = 0;
  const worker = async () => {
    while (next < names.length) {
      const at = next++;
      // One topic may be deleted between the list and its description.
      rows[at] = await describeTopic(names[at], signal).catch((error) => {
        if (error.problem?.status === 404) return undefined;
        throw error;
      });
    }
  };
  await Promise.all(Array.from({ length: Math.min(CALLS_AT_ONCE, names.length) }, worker));
  return rows.filter(Boolean);
}

/** Calls `work(signal)` now and again while the page is seen; gives its last problem. */
export function usePolling(work, dependencies) {
  const [problem, setProblem] = useState();
  useEffect(() => {
    const abort = new AbortController();
    let timer;
    const turn = async () => {
      try {
        if (!document.hidden) await work(abort.signal);
        setProblem(undefined);
      } catch (error) {
        if (abort.signal.aborted) return;
        setProblem(problemOf(error));
      }
      if (!abort.signal.aborted) timer = setTimeout(turn, REFRESH_MS);
    };
    turn();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, dependencies);
  return problem;
}

export function TopicsView() {
  const [list, setList] = useState();
  const refresh = useCallback(async (signal) => {
    const { topics, more } = await listTopics(MOST_ROWS, signal);
    setList({ rows: await describeAll(topics.map((t) => t.name), signal), more });
  }, []);
  const problem = usePolling(refresh, [refresh]);

  return html`
    <h1>Topics</h1>
    <${Problem} problem=${problem} />
    <${CreateForm} onCreated=${() => refresh()} />
    ${list && list.rows.length === 0 && html`<${FirstSteps} />`}
    ${list && list.rows.length > 0 && html`<${Table} list=${list} />`}
  `;
}

function Table({ list }) {
  return html`
    <div class="scroll">
      <table class="topics">
        <thead><tr>
          <th scope="col">Topic</th>
          <th scope="col" class="number">Partitions</th>
          <th scope="col" class="number">Records</th>
          <th scope="col" class="number">Size</th>
          <th scope="col"><span class="hidden">Views</span></th>
        </tr></thead>
        <tbody>
          ${list.rows.map((topic) => html`<tr key=${topic.topic_id} data-topic=${topic.name}>
            <th scope="row"><a href=${`#/topics/${topic.name}`}>${topic.name}</a></th>
            <td class="number">${count(topic.partitions.length)}</td>
            <td class="number" data-records=${recordsOf(topic)}>${count(recordsOf(topic))}</td>
            <td class="number">${bytes(sizeOf(topic))}</td>
            <td class="links">
              <a href=${`#/topics/${topic.name}`} aria-label=${`Live tail of ${topic.name}`}>tail</a>
              <a href=${`#/board/${topic.name}`} aria-label=${`Latest values of ${topic.name}`}>board</a>
            </td>
          </tr>`)}
        </tbody>
      </table>
    </div>
    ${list.more && html`<p class="muted">The first ${count(list.rows.length)} topics. <code>sluice topic list</code> shows all.</p>`}
  `;
}

function CreateForm({ onCreated }) {
  const [problem, setProblem] = useState();
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    const { name, partitions } = Object.fromEntries(new FormData(form));
    setBusy(true);
    try {
      await createTopic(name.trim(), Number(partitions) || undefined);
      setProblem(undefined);
      form.reset();
      onCreated();
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      setBusy(false);
    }
  };
  return html`
    <form class="inline" onSubmit=${submit} aria-label="Create a topic">
      <label>New topic <input name="name" required maxlength="249" placeholder="scores" autocomplete="off" spellcheck=${false} /></label>
      <label>Partitions <input name="partitions" type="number" min="1" max="10000" placeholder="default" inputmode="numeric" /></label>
      <button disabled=${busy}>Create</button>
    </form>
    <${Problem} problem=${problem} />
  `;
}

function FirstSteps() {
  return html`<section class="panel empty">
    <h2>No topics yet</h2>
    <p>Create one above, let the first event make it, or start the demo:</p>
    <pre><code>${`curl -X POST '${location.origin}/v1/topics/scores/events?key=game-1' \\
  -H 'Content-Type: application/json' -d '{"home":1,"away":0}'

sluice demo`}</code></pre>
  </section>`;
}
