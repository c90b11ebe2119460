// The console: a frame, and one view for the part of the address after `#`.

import { render } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { html } from "./ui.js";
import { cluster } from "./api.js";
import { TopicsView } from "./topics.js";
import { TopicView } from "./topic.js";
import { BoardView } from "./board.js";
import { GroupsView, GroupView } from "./groups.js";
import { QueueView, QueuesView } from "./queues.js";

/** `#/topics/NAME` → `{ view: "topics", name: "NAME" }`. */
function route() {
  const [view = "topics", name = ""] = location.hash.replace(/^#\/?/, "").split("/");
  try {
    return { view: view || "topics", name: decodeURIComponent(name) };
  } catch {
    return { view: "topics", name: "" };
  }
}

function View({ view, name }) {
  if (view === "board" && name) return html`<${BoardView} key=${name} topic=${name} />`;
  if (view === "topics" && name) return html`<${TopicView} key=${name} topic=${name} />`;
  if (view === "groups" && name) return html`<${GroupView} key=${name} name=${name} />`;
  if (view === "groups") return html`<${GroupsView} />`;
  if (view === "topics") return html`<${TopicsView} />`;
  if (view === "queues" && name) return html`<${QueueView} key=${name} queue=${name} />`;
  if (view === "queues") return html`<${QueuesView} />`;
  return html`<h1>Not here</h1><p>There is no such page. <a href="#/topics">See the topics</a>.</p>`;
}

function App() {
  const [place, setPlace] = useState(route);
  const [node, setNode] = useState();
  const main = useRef();
  const first = useRef(true);

  useEffect(() => {
    const moved = () => setPlace(route());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);

  useEffect(() => {
    document.title = place.name ? `${place.name} – Sluice` : "Sluice";
    if (first.current) first.current = false;
    else main.current?.focus();
  }, [place.view, place.name]);

  useEffect(() => {
    cluster().then(setNode, () => {}); // the views say it when the server does not answer
  }, []);

  const current = (view) => (place.view !== view ? null : place.name ? "true" : "page");
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current?.focus(); }}>Skip to the content</a>
    <header class="bar">
      <a class="brand" href="#/topics"><img src="/assets/favicon.svg" alt="" width="28" height="28" />Sluice</a>
      <nav aria-label="Main">
        <a href="#/topics" aria-current=${current("topics")}>Topics</a>
        <a href="#/groups" aria-current=${current("groups")}>Groups</a>
        <a href="#/queues" aria-current=${current("queues")}>Queues</a>
        <a href="/docs">API</a>
      </nav>
      ${node && html`<span class="node" title=${`cluster ${node.cluster_id}`}>broker ${node.broker_id}</span>`}
    </header>
    <main id="main" ref=${main} tabindex="-1"><${View} ...${place} /></main>
  `;
}

const app = document.getElementById("app");
app.replaceChildren();
render(html`<${App} />`, app);
