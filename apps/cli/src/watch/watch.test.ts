import { appendFile, mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { findRuns } from "../runs/find.ts";
import { lines, makeRun, metricsOf } from "../runs/testing.ts";
import { fakeIo } from "../testing.ts";
import { Feed, type Message } from "./feed.ts";
import { watchPage } from "./html.ts";
import { type RunStore, runStore } from "./page-runs.ts";
import { serveRuns, type WatchServer } from "./server.ts";

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-watch-"));
});
afterEach(() => rm(dir, { recursive: true }));

/** Steps and losses of each run that a page shows. */
const shown = ({ runs }: RunStore) =>
  [...runs.values()].map(({ axes, metrics }) => [axes.step, metrics.get("loss")?.mean]);

const names = (messages: readonly Message[]) =>
  messages.flatMap((m) => (m.type === "runs" ? [m.runs.map(({ name }) => name)] : []));

describe("findRuns", () => {
  it("finds runs in folders, and names them shortly", async () => {
    await makeRun(join(dir, "demo", "moe"), 1);
    await makeRun(join(dir, "demo", "dense"), 1);
    await mkdir(join(dir, "new", "checkpoints"), { recursive: true });
    await writeFile(join(dir, "new", "run.json"), "{");
    for (const hidden of [".git", "node_modules", "new/checkpoints", "demo/moe/inner"]) {
      await makeRun(join(dir, hidden), 1);
    }
    await symlink(dir, join(dir, "loop"));
    const found = await findRuns([dir, join(dir, "demo")]);
    expect(found.map(({ name }) => name)).toEqual(["demo/dense", "demo/moe", "new"]);
    expect(new Set(found.map(({ id }) => id)).size).toBe(3);
    expect((await findRuns([join(dir, "demo", "moe")])).map(({ name }) => name)).toEqual(["moe"]);
    expect(await findRuns([join(dir, "missing")])).toEqual([]);
  });
});

describe("Feed", () => {
  it("gives what is new: steps, half lines once they are whole, later runs, runs gone on with", async () => {
    const run = await makeRun(join(dir, "a"), 3);
    const file = join(run, "metrics.jsonl");
    await writeFile(join(run, "run.json"), JSON.stringify({ settings: { steps: 50 } }));
    const feed = new Feed([dir]);
    const news = feed.reader();
    const look = async () => {
      await feed.refresh();
      return news();
    };
    const page = runStore();
    const first = await look();
    expect(first[0]).toMatchObject({ type: "runs", runs: [{ name: "a", planned: 50 }] });
    first.forEach(page.receive);
    expect(shown(page)).toEqual([
      [
        [1, 2, 3],
        [7, 4.5, 3.666667],
      ],
    ]);
    expect(await look()).toEqual([]);

    const text = JSON.stringify(metricsOf(4));
    await appendFile(file, text.slice(0, 20));
    (await look()).forEach(page.receive);
    expect(shown(page)).toEqual([
      [
        [1, 2, 3],
        [7, 4.5, 3.666667],
      ],
    ]);
    await appendFile(file, `${text.slice(20)}\n`);
    const more = await look();
    // Only the end, not all that was sent before.
    expect(more.find((m) => m.type === "points")).toMatchObject({ from: 2, step: [3, 4] });
    more.forEach(page.receive);
    expect(shown(page)).toEqual([
      [
        [1, 2, 3, 4],
        [7, 4.5, 3.666667, 3.25],
      ],
    ]);

    await makeRun(join(dir, "b"), 2);
    const later = await look();
    expect(names(later)).toEqual([["a", "b"]]);
    later.forEach(page.receive);
    expect(shown(page)[1]).toEqual([
      [1, 2],
      [7, 4.5],
    ]);

    await writeFile(`${file}.new`, lines([metricsOf(1), metricsOf(2)]));
    await rename(`${file}.new`, file);
    (await look()).forEach(page.receive);
    expect(shown(page)[0]).toEqual([
      [1, 2],
      [7, 4.5],
    ]);

    await rm(run, { recursive: true });
    expect(names(await look())).toEqual([["b"]]);
    // One who comes later is told all.
    page.forget();
    feed.reader()().forEach(page.receive);
    expect(shown(page)).toEqual([
      [
        [1, 2],
        [7, 4.5],
      ],
    ]);
  });

  it("sends a long run as few points, with their least and greatest", async () => {
    await mkdir(join(dir, "long"));
    const file = join(dir, "long", "metrics.jsonl");
    const rows = Array.from({ length: 50_000 }, (_, i) => ({
      step: i + 1,
      loss: i === 7 ? 99 : 1,
    }));
    await writeFile(file, lines(rows));
    const feed = new Feed([dir]);
    const news = feed.reader();
    await feed.refresh();
    const points = news().find((m) => m.type === "points");
    expect(points?.step.length).toBeLessThanOrEqual(2000);
    expect(points?.step.at(-1)).toBe(50_000);
    expect(points?.metrics.loss?.max?.[0]).toBe(99);
    expect(points?.metrics.loss?.min?.[0]).toBe(1);
    await appendFile(file, lines([{ step: 50_001, loss: 1 }]));
    await feed.refresh();
    expect(JSON.stringify(news()).length).toBeLessThan(1000);
  });

  it("stands metrics of any name, and values that are none", async () => {
    await mkdir(join(dir, "odd"));
    const odd = `{"step":1,"__proto__":5,"constructor":{"x":1},"loss":null,"huge":1e999,"<b>":1}`;
    await writeFile(join(dir, "odd", "metrics.jsonl"), `${odd}\n[]\n\u0000\n`);
    const feed = new Feed([dir]);
    await feed.refresh();
    const points = JSON.parse(JSON.stringify(feed.reader()())).at(-1);
    expect(Object.entries(points.metrics)).toEqual([
      ["__proto__", { mean: [5] }],
      ["constructor/x", { mean: [1] }],
      ["<b>", { mean: [1] }],
    ]);
  });
});

describe("serveRuns", () => {
  let server: WatchServer;
  beforeEach(async () => {
    server = await serveRuns(new Feed([dir]), 0);
  });
  afterEach(() => server.close());

  const ask = (path: string, options: { method?: string; host?: string } = {}) =>
    new Promise<{ status: number; headers: Record<string, unknown>; text: string }>(
      (done, fail) => {
        const { port } = new URL(server.url);
        const { method = "GET", host = `127.0.0.1:${port}` } = options;
        // Not fetch, which would tidy up the path and the host.
        const asked = request(
          { port, host: "127.0.0.1", path, method, headers: { host } },
          (got) => {
            let text = "";
            got.on("data", (chunk) => {
              text += chunk;
            });
            got.on("end", () => done({ status: got.statusCode ?? 0, headers: got.headers, text }));
          },
        );
        asked.on("error", fail);
        asked.end();
      },
    );

  it("sends the page, and nothing else that is asked for", async () => {
    const page = await ask("/");
    expect(page.status).toBe(200);
    expect(page.headers["content-security-policy"]).toContain("default-src 'none'");
    for (const path of [
      "/../../etc/passwd",
      "/%2e%2e/x",
      `/${dir}/metrics.jsonl`,
      "//",
      "/events/",
    ]) {
      expect((await ask(path)).status, path).toBe(404);
    }
    expect((await ask("/", { method: "POST" })).status).toBe(405);
  });

  it("refuses who calls this machine by another name", async () => {
    for (const host of ["evil.example", "127.0.0.1.evil.example:80", "localhost@evil.example"]) {
      expect((await ask("/events", { host })).status, host).toBe(403);
    }
    expect((await ask("/", { host: "localhost:1" })).status).toBe(200);
  });

  it("tells runs and points as events, and goes on as they come", async () => {
    const run = await makeRun(join(dir, '"><script>\n'), 2);
    const got = await fetch(new URL("/events", server.url));
    expect(got.headers.get("content-type")).toContain("text/event-stream");
    const page = runStore();
    let text = "";
    for await (const chunk of got.body as unknown as AsyncIterable<Uint8Array>) {
      const events = (text + new TextDecoder().decode(chunk)).split("\n\n");
      text = events.pop() ?? "";
      for (const event of events) {
        if (event.startsWith("data: ")) page.receive(JSON.parse(event.slice("data: ".length)));
      }
      const steps = (shown(page)[0]?.[0] ?? []).length;
      if (steps === 2) await appendFile(join(run, "metrics.jsonl"), lines([metricsOf(3)]));
      if (steps === 3) break;
    }
    expect(shown(page)).toEqual([
      [
        [1, 2, 3],
        [7, 4.5, 3.666667],
      ],
    ]);
  });
});

it("the page is whole: its program parses, and it asks for nothing from elsewhere", async () => {
  const { html, policy } = await watchPage();
  const script = /<script>([\s\S]*)<\/script>/.exec(html)?.[1] as string;
  expect(() => new Function(script)).not.toThrow();
  expect(script).not.toContain("__vi");
  expect(script).not.toContain("</script");
  expect(html.replace(/<(script|style)>[\s\S]*?<\/\1>/g, "")).not.toMatch(/https?:|src=/);
  expect(policy).not.toMatch(/unsafe/);
});

it("dsv3 watch prints where the page is, until it is stopped", async () => {
  const io = fakeIo();
  io.stdout.write = (text) => {
    io.stdout.text += text;
    io.interrupt();
  };
  const missing = join(dir, "later");
  expect(await runCli(["watch", missing], io, commands, "0")).toBe(0);
  expect(io.stdout.text).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/\n$/);
  expect(io.stderr.text).toContain(`${missing} is not there yet`);

  await writeFile(missing, "");
  const second = fakeIo();
  expect(await runCli(["watch", missing], second, commands, "0")).toBe(1);
  expect(second.stderr.text).toContain("is a file; give the folder of a run");
});
