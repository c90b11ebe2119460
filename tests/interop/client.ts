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
const missing = await client.GET("/v1/topics/{topic}", { params: { path: { topic: "none" } } });
if (missing.error?.status !== 404) throw new Error(JSON.stringify(missing.error));
