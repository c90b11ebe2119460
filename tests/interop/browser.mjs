// A person's way through the console, in Debian's Chromium: node browser.mjs URL BINARY FOLDER_FOR_SCREENSHOTS
import { spawn } from "node:child_process";
import { chromium } from "playwright-core";

const [, , url, binary, folder] = process.argv;
const WAIT = { timeout: 20_000 };

const check = (what, truth) => {
  if (!truth) throw new Error(`not so: ${what}`);
  console.log(`  ok  ${what}`);
};

const demo = spawn(binary, ["demo", "--url", url, "--speed", "20"], { stdio: ["ignore", "pipe", "pipe"] });
let said = "";
for (const stream of [demo.stdout, demo.stderr]) stream.on("data", (text) => (said = (said + text).slice(-4_000)));

/** Asks the server itself, as other programs would. */
async function api(method, path, body) {
  const json = body && { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(`${url}/v1/${path}`, { method, ...json, signal: AbortSignal.timeout(20_000) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.status === 204 ? undefined : answer.json();
}

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const complaints = [];
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`page: ${error.stack}`));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) complaints.push(`asked another host: ${request.url()}`);
  });
  await page.addInitScript(() =>
    addEventListener("securitypolicyviolation", (event) =>
      console.error(`content security policy: ${event.violatedDirective} ${event.blockedURI}`),
    ),
  );

  // Topics: make one with the form; the demo's comes by itself.
  const front = await page.goto(`${url}/`);
  check("the page has a content security policy", Boolean(front.headers()["content-security-policy"]));
  await page.fill("input[name=name]", "by-hand");
  await page.fill("input[name=partitions]", "2");
  await page.click("form[aria-label='Create a topic'] button");
  await page.waitForSelector("tr[data-topic='by-hand']", WAIT);
  check("a topic made with the form is listed", true);
  await page.waitForSelector(`tr[data-topic]:not([data-topic='by-hand']) [data-records]:not([data-records='0'])`, WAIT);
  const topic = await page.getAttribute("tr[data-topic]:not([data-topic='by-hand'])", "data-topic");
  check(`the demo's topic ${topic} is listed, with records`, true);
  await page.screenshot({ path: `${folder}/topics.png` });

  // The board: games that change while one looks.
  await page.goto(`${url}/#/board/${topic}`);
  await page.waitForSelector("[data-state=live]", WAIT);
  await page.waitForSelector(".games .game", WAIT);
  check("the board is live and shows games", (await page.locator(".game .team .name").count()) >= 2);
  const board = () => page.locator(".games").innerText();
  const before = await board();
  await page.waitForFunction((text) => document.querySelector(".games").innerText !== text, before, WAIT);
  check("the board changes by itself", true);
  await page.screenshot({ path: `${folder}/board.png` });

  // The tail: published by hand, seen live; paused, nothing is lost.
  await page.goto(`${url}/#/topics/by-hand`);
  await page.waitForSelector("[data-state=live]", WAIT);
  const publish = async (key, value) => {
    await page.fill("form[aria-label='Publish an event'] input[name=key]", key);
    await page.fill("form[aria-label='Publish an event'] textarea", value);
    const [answer] = await Promise.all([
      page.waitForResponse((response) => response.url().includes("/events"), WAIT),
      page.click("form[aria-label='Publish an event'] button"),
    ]);
    if (answer.status() !== 201) throw new Error(`publishing gave ${answer.status()}: ${await answer.text()}`);
    await page.waitForSelector("form[aria-label='Publish an event'] [role=status]:has-text('stored in partition')", WAIT);
  };
  const line = (text) => page.waitForSelector(`.tail li:has-text(${JSON.stringify(text)})`, WAIT);
  await page.click("summary:has-text('Publish an event')");
  await publish("one", '{"n":12345678901234567890,"é":"ü"}');
  await line("12345678901234567890");
  check("an event published with the form comes in live, its number exact", true);
  await page.click("button:has-text('Pause')");
  await publish("two", "while paused");
  check("paused, the tail stands still", (await page.locator(".tail li:has-text('while paused')").count()) === 0);
  await page.click("button:has-text('Resume')");
  await line("while paused");
  check("resumed, it has what came meanwhile", (await page.locator(".tail li").count()) === 2);
  await publish("odd", '{"team1":"<b>one</b>","team2":"","score":[1,2],"type":["goal"],"minute":{"a":1e99},"player":null,"year":1.0}');
  await line("1e99");
  await page.screenshot({ path: `${folder}/tail.png` });

  // Groups: who reads what, and how far behind.
  await api("POST", "topics", { name: "jobs", partitions: 1 });
  const records = ["a", "a", "b", "c", "d", "e"].map((key, n) => ({ key, value: { job: n, exact: 12345678901234 } }));
  await api("POST", "topics/jobs/records", { records });
  let place;
  for (let i = 0; place?.state !== "stable" && i < 100; i++) {
    place = await api("PUT", "groups/readers/members/reader-1", { topics: ["jobs"], session_timeout_ms: 600_000 });
    await new Promise((resolve) => setTimeout(resolve, place.heartbeat_interval_ms / 4));
  }
  const offsets = [{ topic: "jobs", partition: 0, offset: 2 }];
  await api("POST", "groups/readers/members/reader-1/commit", { epoch: place.epoch, offsets });
  await page.click("nav >> text=Groups");
  await page.waitForSelector("tr[data-group=readers] [data-lag='4']", WAIT);
  check("the group is listed with its lag", true);
  await page.screenshot({ path: `${folder}/groups.png` });
  await page.click("tr[data-group=readers] a");
  await page.waitForSelector("[data-state=stable]", WAIT);
  const reader = await page.innerText("tr[data-member=reader-1]");
  check("its page says who reads what", reader.includes("jobs: 0"));
  await page.screenshot({ path: `${folder}/group.png` });

  // Queues: what waits for what, and the dead letters, which a click redrives or discards.
  await api("PUT", "queues/work", { topic: "jobs", order: "key" });
  await api("POST", "queues/work/receive", { max: 1, lease_ms: 600_000 });
  const given = await api("POST", "queues/work/receive", { max: 3 });
  const reject = given.messages.map(({ lease, record }) => ({ lease, reason: `no ${record.key} today` }));
  await api("POST", "queues/work/settle", { reject });
  await page.click("nav >> text=Queues");
  await page.waitForSelector("tr[data-queue=work] [data-state=dead]:text-is('3')", WAIT);
  check("the queue is listed with its counts", true);
  await page.screenshot({ path: `${folder}/queues.png` });
  await page.click("tr[data-queue=work] a >> nth=0");
  await page.waitForSelector("[data-dead='0@4']", WAIT);
  const blocked = await page.innerText("[data-block=key]");
  check("its page says what holds what back", /^1 message behind key a, leased at 0@0 for /.test(blocked));
  const letter = await page.innerText("[data-dead='0@2']");
  check("a dead letter shows its value and why", letter.includes("12345678901234") && letter.includes("no b today"));
  await page.screenshot({ path: `${folder}/queue.png` });
  await page.click("[data-dead='0@2'] >> text=Redrive");
  await page.waitForSelector("[data-dead='0@2']", { state: "detached", ...WAIT });
  page.once("dialog", (dialog) => dialog.dismiss());
  await page.click("[data-dead='0@3'] >> text=Discard");
  page.once("dialog", (dialog) => dialog.accept());
  await page.click("[data-dead='0@3'] >> text=Discard");
  await page.waitForSelector("[data-dead='0@3']", { state: "detached", ...WAIT });
  const counts = ({ ready, dead, discarded }) => `${ready} ready, ${dead} dead, ${discarded} discarded`;
  const one = counts(await api("GET", "queues/work"));
  check(`one is redriven and one discarded: ${one}`, one === "2 ready, 1 dead, 1 discarded");
  await page.setViewportSize({ width: 400, height: 800 });
  await page.screenshot({ path: `${folder}/queue-narrow.png` });
  const sideways = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  check("on a narrow screen the queue's page does not scroll sideways", !sideways);
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.click("text=Redrive all");
  await page.waitForSelector("text=No dead letters", WAIT);
  const all = counts(await api("GET", "queues/work"));
  check(`all of them are redriven: ${all}`, all === "3 ready, 0 dead, 1 discarded");
  const again = await api("POST", "queues/work/receive", { max: 10 });
  const keys = again.messages.map(({ record }) => record.key).join();
  check(`what was redriven comes again: ${keys}`, keys === "b,d,e");

  // Values that are no games, and a narrow, dark screen.
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 400, height: 800 });
  await page.goto(`${url}/#/board/by-hand`);
  await page.waitForSelector("tr[data-key=two]", WAIT);
  await page.waitForSelector(".game[data-key=odd]", WAIT);
  check("an odd game is shown too", true);
  check("markup in a value stays text", (await page.locator("main b").count()) === 0);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  check("a narrow screen does not scroll sideways", !wide);
  await page.screenshot({ path: `${folder}/narrow.png` });

  // The API's pages are in the binary as well.
  await page.goto(`${url}/docs`);
  await page.waitForFunction(() => document.body.innerText.replaceAll("\u200b", "").includes("/v1/topics"), undefined, WAIT);
  check("the API's pages load", true);

  if (complaints.length > 0) throw new Error(complaints.join("\n"));
  check("no complaint of the browser, no other host asked", true);
} catch (error) {
  console.error(complaints.join("\n"));
  console.error(`the demo said: ${said}`);
  throw error;
} finally {
  await browser.close();
  demo.kill("SIGTERM");
}
