// Calls of the HTTP API. Every failure is thrown as a `ProblemError` that carries the server's problem object.

/** A failed call; `problem` is RFC 9457's object, or one made up here when the server could not be reached. */
export class ProblemError extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title);
    this.problem = problem;
  }
}

/** The `problem` of anything thrown. */
export const problemOf = (error) =>
  error instanceof ProblemError ? error.problem : { title: "The page failed", detail: String(error?.message ?? error) };

/**
 * Parses JSON so that printing it again gives the numbers as they were sent, also those that a JavaScript number can
 * not hold, where the browser can do that.
 */
export function parseExactly(text) {
  if (!JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (_name, value, context) =>
    typeof value === "number" && context && String(value) !== context.source ? JSON.rawJSON(context.source) : value,
  );
}

async function call(path, { exact = false, ...options } = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError({ title: "The server does not answer", detail: "It is tried again.", code: "unreachable" });
  }
  if (response.ok && response.status === 204) return undefined;
  if (response.ok) return exact ? parseExactly(await response.text()) : response.json();
  let problem;
  try {
    problem = await response.json();
  } catch {
    problem = { title: response.statusText || "The request failed", status: response.status };
  }
  throw new ProblemError(problem);
}

/** The path of a topic, or of something below it. */
export const topicPath = (topic, below = "") => `/v1/topics/${encodeURIComponent(topic)}${below}`;

/** Names of topics, sorted; at most `limit`, and whether there are more. */
export async function listTopics(limit, signal) {
  const topics = [];
  let token;
  do {
    const query = token ? `?page_token=${encodeURIComponent(token)}` : "";
    const page = await call(`/v1/topics${query}`, { signal });
    topics.push(...page.topics);
    token = page.next_page_token;
  } while (token && topics.length < limit);
  return { topics: topics.slice(0, limit), more: Boolean(token) || topics.length > limit };
}

/** A topic with the state of each partition. */
export const describeTopic = (topic, signal) => call(topicPath(topic), { signal });

/** Makes a topic; without `partitions` it gets the broker's default. */
export const createTopic = (name, partitions) =>
  call("/v1/topics", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(partitions ? { name, partitions } : { name }),
  });

/** Publishes one event. The body is stored byte for byte. `tombstone` deletes the key instead. */
export function publish(topic, { key, body, contentType, tombstone }) {
  const query = new URLSearchParams();
  if (key !== "") query.set("key", key);
  if (tombstone) query.set("tombstone", "true");
  return call(topicPath(topic, `/events?${query}`), {
    method: "POST",
    headers: tombstone ? {} : { "content-type": contentType },
    body: tombstone ? undefined : body,
  });
}

/** Consumer groups, by name; at most `limit`, and whether there are more. */
export async function listGroups(limit, signal) {
  const page = await call(`/v1/groups?page_size=${limit}`, { signal });
  return { groups: page.groups, more: Boolean(page.next_page_token) };
}

/** A group with its members and its place in each partition. */
export const describeGroup = (group, signal) => call(`/v1/groups/${encodeURIComponent(group)}`, { signal });

/** The cluster, as this server sees it. */
export const cluster = (signal) => call("/v1/cluster", { signal });

const queuePath = (queue, below = "") => `/v1/queues/${encodeURIComponent(queue)}${below}`;

/** Every queue with its counts. */
export const listQueues = async (signal) => (await call("/v1/queues", { signal })).queues;

/** One queue. */
export const describeQueue = (queue, signal) => call(queuePath(queue), { signal });

/** The first dead letters and parked messages. */
export const deadLetters = (queue, limit, signal) =>
  call(queuePath(queue, `/dead?page_size=${limit}`), { signal, exact: true });

/** Redrives or discards (`what`) those that fit the filter. */
export const endDead = (queue, what, filter) =>
  call(queuePath(queue, `/dead/${what}`), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(filter),
  });
