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
