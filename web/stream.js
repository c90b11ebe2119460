// A topic's stream over Server-Sent Events, kept open.
//
// EventSource reconnects by itself after a broken connection, and sends its last event id, which is the cursor. It gives
// up for good on any answer but 200; then `Subscription` opens another one, from the same cursor, after a growing wait.
// Pausing closes the connection and keeps the cursor: nothing is buffered anywhere, and nothing is lost.

import { describeTopic, parseExactly, problemOf, topicPath } from "./api.js";

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;
/** A page that nobody sees lets its connection go after this long: a browser has only six for a host over HTTP/1.1. */
const UNSEEN_MS = 60_000;

/** One live subscription. Handlers: `record(record)`, `gap(gap)`, `problem(problem)`, `state(name)`, `reset()`. */
export class Subscription {
  #topic;
  #parameters;
  #handlers;
  #source;
  #cursor = "";
  #timer;
  #wait = FIRST_WAIT_MS;
  #closed = true;
  #asleep = false;
  #unseen;

  constructor(topic, parameters, handlers) {
    this.#topic = topic;
    this.#parameters = parameters;
    this.#handlers = handlers;
  }

  /** Opens it, or goes on from where `close` left it. */
  open() {
    if (!this.#closed) return;
    this.#closed = false;
    document.addEventListener("visibilitychange", this.#seenOrNot);
    this.#connect();
  }

  /** Closes the connection and keeps the cursor. */
  close() {
    this.#closed = true;
    this.#asleep = false;
    document.removeEventListener("visibilitychange", this.#seenOrNot);
    clearTimeout(this.#unseen);
    this.#disconnect();
  }

  #seenOrNot = () => {
    clearTimeout(this.#unseen);
    if (document.hidden) {
      this.#unseen = setTimeout(() => {
        this.#asleep = true;
        this.#disconnect();
      }, UNSEEN_MS);
    } else if (this.#asleep) {
      this.#asleep = false;
      this.#connect();
    }
  };

  #disconnect() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = undefined;
  }

  #url() {
    const query = new URLSearchParams(this.#parameters);
    if (this.#cursor) {
      // A cursor takes the place of every start, and of the snapshot that came before it.
      for (const start of ["from", "last", "since", "offset", "view"]) query.delete(start);
      query.set("cursor", this.#cursor);
    }
    return `${topicPath(this.#topic, "/stream")}?${query}`;
  }

  #connect() {
    const { record, gap, problem, state, reset } = this.#handlers;
    const snapshot = this.#parameters.view === "latest" && !this.#cursor;
    state("connecting");
    const source = new EventSource(this.#url());
    this.#source = source;
    const on = (name, handle) =>
      source.addEventListener(name, (event) => {
        if (event.lastEventId) this.#cursor = event.lastEventId;
        handle(event);
      });
    source.onopen = () => {
      this.#wait = FIRST_WAIT_MS;
      // Without a cursor the browser's own reconnect starts the snapshot again.
      if (!this.#cursor) reset?.();
      state(snapshot && !this.#cursor ? "snapshot" : "catching_up");
    };
    on("message", (event) => record(parseExactly(event.data)));
    on("gap", (event) => gap?.(JSON.parse(event.data)));
    on("snapshot-end", () => state("live"));
    on("caught-up", () => state("live"));
    on("problem", (event) => problem(JSON.parse(event.data)));
    on("goaway", () => state("retrying"));
    on("end", () => {
      this.close();
      state("ended");
    });
    source.onerror = () => {
      if (this.#closed) return;
      state("retrying");
      if (source.readyState === EventSource.CLOSED) this.#retry();
    };
  }

  #retry() {
    this.#source = undefined;
    // EventSource hides the answer that it got; the topic's own says why, if it is the topic.
    describeTopic(this.#topic).then(
      () => {},
      (error) => this.#closed || this.#handlers.problem(problemOf(error)),
    );
    if (this.#asleep) return;
    this.#timer = setTimeout(() => this.#connect(), this.#wait);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
  }
}
