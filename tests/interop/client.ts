// What a TypeScript user writes with the generated types: node client.js URL
import createClient from "openapi-fetch";
import type { paths } from "./openapi.js";

const client = createClient<paths>({ baseUrl: process.argv[2] });

function given<T>(answer: { data?: T; error?: { code: string; detail?: string }; response: Response }): T {
  if (answer.error || answer.data === undefined) throw new Error(`${answer.response.status} ${JSON.stringify(answer.error)}`);
  return answer.data;
}

const topic = "from-typescript";
given(await client.POST("/v1/topics", { body: { name: topic, partitions: 1 } }));
const stored = given(
  await client.POST("/v1/topics/{topic}/records", {
    params: { path: { topic } },
    body: { records: [{ key: "a", value: { n: 1 } }, { key: "b", text: "two" }] },
  }),
);
const page = given(
  await client.GET("/v1/topics/{topic}/records", { params: { path: { topic }, query: { from: "earliest" } } }),
);
const keys = page.records.map((record) => record.key).join();
if (stored.results.length !== 2 || keys !== "a,b" || !page.caught_up) throw new Error(JSON.stringify(page));

// A queue: what was received is acknowledged.
const queue = { path: { queue: "typescript-work" } };
given(await client.PUT("/v1/queues/{queue}", { params: queue, body: { topic, order: "key" } }));
const { messages } = given(await client.POST("/v1/queues/{queue}/receive", { params: queue, body: { max: 1 } }));
const ack = messages.map((message) => message.lease);
const settled = given(await client.POST("/v1/queues/{queue}/settle", { params: queue, body: { ack } }));
const { ready, acked } = given(await client.GET("/v1/queues/{queue}", { params: queue }));
if (settled.results[0]?.status !== "settled" || ready !== 1 || acked !== 1) throw new Error(JSON.stringify(settled));

// A group: joined, read, committed.
const member = { group: "typescript-readers", member: "one" };
const join = async () =>
  given(await client.PUT("/v1/groups/{group}/members/{member}", { params: { path: member }, body: { topics: [topic] } }));
let place = await join();
for (let i = 0; place.state !== "stable" && i < 100; i++) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  place = await join();
}
const { epoch } = place;
const read = given(
  await client.GET("/v1/groups/{group}/members/{member}/records", { params: { path: member, query: { epoch } } }),
);
const committed = await client.POST("/v1/groups/{group}/members/{member}/commit", {
  params: { path: member },
  body: { epoch, cursor: read.next_cursor },
});
if (committed.response.status !== 204) throw new Error(JSON.stringify(committed.error));
const group = given(await client.GET("/v1/groups/{group}", { params: { path: { group: member.group } } }));
if (read.records.length !== 2 || group.lag !== 0) throw new Error(JSON.stringify(group));

const missing = await client.GET("/v1/topics/{topic}", { params: { path: { topic: "none" } } });
if (missing.error?.status !== 404) throw new Error(JSON.stringify(missing.error));
