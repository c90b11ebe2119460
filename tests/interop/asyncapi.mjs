// The AsyncAPI document is valid: node asyncapi.mjs FILE
import { readFileSync } from "node:fs";
import asyncapi from "@asyncapi/parser";

const { document, diagnostics } = await new asyncapi.Parser().parse(readFileSync(process.argv[2], "utf8"), { source: process.argv[2] });
const errors = diagnostics.filter((diagnostic) => diagnostic.severity === 0);
for (const { code, message, path } of errors) console.error(`${code}: ${message} at ${path.join(".")}`);
if (!document || errors.length > 0) process.exit(1);
const operations = document.operations().all();
if (operations.length === 0) throw new Error("the document has no operations");
console.log(`  ok  ${operations.length} operations, ${diagnostics.length} remarks`);
