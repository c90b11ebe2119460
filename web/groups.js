// Consumer groups: which there are, who reads what, and how far behind they are.

import { useCallback, useState } from "./vendor/hooks.js";
import { count, html, plural, Problem, span } from "./ui.js";
import { describeGroup, listGroups } from "./api.js";
import { usePolling } from "./topics.js";

/** Each row costs a call, so a long list shows its beginning. */
const MOST_ROWS = 50;
/** Rows of one group's partitions. */
const MOST_PARTITIONS = 500;

const TONES = { stable: "good", rebalancing: "wait", empty: "idle" };

function GroupState({ state }) {
  return html`<span class=${`chip ${TONES[state] ?? "idle"}`} data-state=${state}><span class="dot" aria-hidden="true"></span>${state}</span>`;
}

export function GroupsView() {
  const [list, setList] = useState();
  const refresh = useCallback(async (signal) => {
    const { groups, more } = await listGroups(MOST_ROWS, signal);
    // One may be deleted between the list and its description.
    const gone = (error) => { if (error.problem?.status !== 404) throw error; };
    const rows = await Promise.all(groups.map((g) => describeGroup(g.group, signal).catch(gone)));
    setList({ rows: rows.filter(Boolean), more });
  }, []);
  const problem = usePolling(refresh, [refresh]);

  return html`
    <h1>Consumer groups</h1>
    <${Problem} problem=${problem} />
    ${list && list.rows.length === 0 && html`<${FirstSteps} />`}
    ${list && list.rows.length > 0 && html`<${Table} list=${list} />`}
  `;
}

function Table({ list }) {
  return html`
    <div class="scroll">
      <table class="groups">
        <thead><tr>
          <th scope="col">Group</th>
          <th scope="col">State</th>
          <th scope="col" class="number">Members</th>
          <th scope="col" class="number">Lag (records)</th>
          <th scope="col" class="number">Lag (time)</th>
        </tr></thead>
        <tbody>
          ${list.rows.map((group) => html`<tr key=${group.group} data-group=${group.group}>
            <th scope="row"><a href=${`#/groups/${encodeURIComponent(group.group)}`}>${group.group}</a></th>
            <td><${GroupState} state=${group.state} /></td>
            <td class="number">${count(group.members.length)}</td>
            <td class="number" data-lag=${group.lag}>${count(group.lag)}</td>
            <td class="number">${span(group.lag_ms)}</td>
          </tr>`)}
        </tbody>
      </table>
    </div>
    ${list.more && html`<p class="muted">The first ${count(list.rows.length)} groups. <code>sluice group list</code> shows all.</p>`}
  `;
}

function FirstSteps() {
  return html`<section class="panel empty">
    <h2>No consumer groups yet</h2>
    <p>A group shares a topic's partitions among its members and remembers how far each was read:</p>
    <pre><code>sluice consume scores --group workers</code></pre>
  </section>`;
}

export function GroupView({ name }) {
  const [group, setGroup] = useState();
  const refresh = useCallback(async (signal) => setGroup(await describeGroup(name, signal)), [name]);
  const problem = usePolling(refresh, [refresh]);

  return html`
    <p class="crumbs"><a href="#/groups">Consumer groups</a></p>
    <h1>${name}</h1>
    <${Problem} problem=${problem} />
    ${group && html`
      <p>
        <${GroupState} state=${group.state} />
        <span> epoch ${group.epoch}, ${plural(group.members.length, "member")}, ${plural(group.lag, "record")} behind (${span(group.lag_ms)})</span>
      </p>
      ${group.members.length > 0 && html`<${Members} members=${group.members} />`}
      ${group.offsets.length > 0 && html`<${Offsets} offsets=${group.offsets} />`}
    `}
  `;
}

const parts = (assignment) =>
  assignment ? assignment.map((t) => `${t.topic}: ${t.partitions.join(", ")}`).join("; ") || "nothing" : "its own form";

function Members({ members }) {
  return html`<h2>Members</h2>
    <div class="scroll"><table>
      <thead><tr>
        <th scope="col">Member</th><th scope="col">Over</th><th scope="col">Client</th><th scope="col">From</th><th scope="col">Reads</th>
      </tr></thead>
      <tbody>
        ${members.map((member) => html`<tr key=${member.member} data-member=${member.member}>
          <th scope="row">${member.member}</th>
          <td>${member.kind === "http" ? "HTTP" : "Kafka"}</td>
          <td>${member.kind === "http" ? "–" : member.client_id}</td>
          <td>${member.kind === "http" ? "–" : member.host}</td>
          <td>${parts(member.assignment)}</td>
        </tr>`)}
      </tbody>
    </table></div>`;
}

function Offsets({ offsets }) {
  return html`<h2>Partitions</h2>
    <div class="scroll"><table>
      <thead><tr>
        <th scope="col">Topic</th><th scope="col" class="number">Partition</th><th scope="col" class="number">Committed</th>
        <th scope="col" class="number">End</th><th scope="col" class="number">Lag</th><th scope="col" class="number">Lag (time)</th>
        <th scope="col">Member</th>
      </tr></thead>
      <tbody>
        ${offsets.slice(0, MOST_PARTITIONS).map((at) => html`<tr key=${`${at.topic}/${at.partition}`}>
          <th scope="row"><a href=${`#/topics/${at.topic}`}>${at.topic}</a></th>
          <td class="number">${at.partition}</td>
          <td class="number">${at.committed_offset === undefined ? "–" : count(at.committed_offset)}</td>
          <td class="number">${count(at.high_watermark)}</td>
          <td class="number">${count(at.lag)}</td>
          <td class="number">${span(at.lag_ms)}</td>
          <td>${at.member ?? "–"}</td>
        </tr>`)}
      </tbody>
    </table></div>
    ${offsets.length > MOST_PARTITIONS && html`<p class="muted">The first ${count(MOST_PARTITIONS)} of ${count(offsets.length)} partitions.</p>`}`;
}
