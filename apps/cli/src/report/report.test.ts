import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { preset } from "@dsv3/model";
import { afterAll, beforeAll, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { lines, makeRun, metricsOf } from "../runs/testing.ts";
import { fakeIo } from "../testing.ts";
import { writeStagesReport } from "./stages.ts";
import { writeReport } from "./write-report.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-report-"));
});
afterAll(() => rm(dir, { recursive: true }));

const VOID = new Set(["meta", "br"]);

/** Refuses tags that are not closed in their order, stray angles and ampersands, and what a page would load. */
function checkPage(text: string): void {
  const open: string[] = [];
  for (const [tag, close, name = "", rest = ""] of text
    .replace(/<style>[\s\S]*?<\/style>|<!doctype html>/g, "")
    .matchAll(/<(\/?)([a-z][a-z0-9]*)((?:\s+[a-z-]+="[^"<>]*"|\s+viewBox="[^"<>]*")*\s*\/?)>/g)) {
    if (close) expect(open.pop(), tag).toBe(name);
    else if (!rest.endsWith("/") && !VOID.has(name)) open.push(name);
  }
  expect(open).toEqual([]);
  const bare = text.replace(/<[^<>]*>/g, "");
  expect(bare.replace(/&(amp|lt|gt|quot|#39);/g, "")).not.toMatch(/[<&]/);
  for (const [tag] of text.matchAll(/<[^<>]*>/g)) {
    expect(tag).not.toMatch(/^<(script|link|img|iframe|object)|\s(src|href|on[a-z]+)=/);
  }
  expect(text).not.toMatch(/url\(|@import|https?:/);
}

it("tells all that the folder holds, in a page and in Markdown", async () => {
  const run = await makeRun(join(dir, "full"), 100);
  const settings = { steps: 120, batch: 4, learningRate: [{ until: 120 }] };
  const record = { settings, config: preset("tiny"), source: { data: ["/texts"] } };
  await writeFile(join(run, "run.json"), JSON.stringify(record));
  const machine = { backend: "wasm", processor: "Abacus 3", cores: 7, memoryBytes: 2 ** 33 };
  await writeFile(join(run, "machine.json"), JSON.stringify(machine));
  const loads = [1, 50, 100].map((step) => ({
    step,
    loads: [
      [1, 2, 3, 2],
      [8, 0, 0, 0],
    ],
  }));
  await writeFile(join(run, "loads.jsonl"), lines(loads));
  await mkdir(join(run, "eval", "model"), { recursive: true });
  const measured = { alias: "arc", "acc,none": 0.25, "acc_stderr,none": 0.0125, sample_len: 777 };
  const results = { results: { arc_easy: measured }, "n-shot": { arc_easy: 5 } };
  await writeFile(join(run, "eval", "model", "results_2026.json"), JSON.stringify(results));
  const files = await writeReport(run, {
    samples: [{ prompt: "Once", text: " upon a time" }],
    evaluations: { results: { held_out: { "bits_per_byte,none": 1.75 } } },
    pricePerHour: 36,
  });

  const page = await readFile(files.html, "utf8");
  checkPage(page);
  expect(page.match(/<svg class="curve"/g)).toHaveLength(9);
  expect(page).toContain('aria-label="evaluation/bitsPerByte over the steps"');
  // Two layers; in the second, one expert has all: the darkest shade.
  expect(page.match(/<svg class="heat"/g)).toHaveLength(2);
  expect(page).toContain('fill-opacity="1.00"');
  const markdown = await readFile(files.markdown, "utf8");
  for (const text of [page, markdown]) {
    for (const fact of [
      ...["100 of 120", "100.0k", "4.00e11 FLOP", "2 GFLOP/s", "3m20s", "1.0 MiB"],
      ...["2.00 at 36 an hour", "Abacus 3, 7 cores, 8.0 GiB", "settings.learningRate.0.until"],
      ...["0.2500", "0.0125", "1.7500", "Once", " upon a time"],
    ]) {
      expect(text).toContain(fact);
    }
  }
  expect(markdown).toContain("| arc\\_easy | acc |  | 5 | 0.2500 | 0.0125 |");
  expect(markdown).not.toContain("777");
  // The busiest of the first layer has 3 of a mean of 2, of the second 8 of 2.
  expect(markdown).toContain("| 1 | 4 | 1.50 | 0.50 |\n| 2 | 4 | 4.00 | 0.00 |");

  // A later report knows what was given to the first.
  const io = fakeIo();
  expect(await runCli(["report", run, "--json"], io, commands, "0")).toBe(0);
  expect(JSON.parse(io.stdout.text)).toEqual([files]);
  expect(await readFile(files.html, "utf8")).toBe(
    page.replace(/<tr><th scope="row">price.*?<\/tr>/, ""),
  );
});

it("puts several runs on one page, with what was measured after each", async () => {
  const life = join(dir, "life <of> a model");
  await makeRun(join(life, "first"), 10);
  await makeRun(join(life, "second"), 20);
  const stages = [
    { title: "Text & more", folder: "first" },
    { title: "Rewards", folder: "second" },
  ];
  const evaluations = { results: { "sums, at the end": { "right,likeliest answer": 0.75 } } };
  const samples = [{ prompt: "1 + 1?", text: " <2>" }];
  const page = await readFile(
    await writeStagesReport(life, stages, { samples, evaluations }),
    "utf8",
  );
  checkPage(page);
  for (const fact of [
    "Text &amp; more",
    "sums, at the end",
    "0.7500",
    "&lt;2&gt;",
    ">10<",
    ">20<",
  ]) {
    expect(page).toContain(fact);
  }
  expect(page.match(/aria-label="mainLoss over the steps"/g)).toHaveLength(2);
});

it("stands names that are markup, numbers that are none, and lines that are damaged", async () => {
  const evil = `</title><script>alert(1)</script>"'&|\u0001\ud800`;
  const run = join(dir, "<img src=x onerror=alert(1)>");
  await mkdir(run);
  const odd = [
    { step: 1, [evil]: 1, loss: null, huge: 1e308, one: 5 },
    "{broken",
    "null",
    { step: 2, [evil]: 2, loss: null, huge: -1e308, sourceLoss: { [evil]: 3 } },
    { step: 3, tokens: "many", seconds: -1 },
  ];
  await writeFile(join(run, "metrics.jsonl"), `${lines(odd)}{"step": 4, "lo`);
  await writeFile(
    join(run, "loads.jsonl"),
    lines([
      3,
      { step: 1, loads: [] },
      { step: 1, loads: [[0, 0]] },
      { step: 2, loads: [[1], [2]] },
    ]),
  );
  await writeFile(join(run, "run.json"), JSON.stringify({ settings: 3, config: { [evil]: evil } }));
  await writeFile(
    join(run, "results_x.json"),
    JSON.stringify({ results: { [evil]: { "acc,none": 1 } } }),
  );
  const { html, markdown } = await writeReport(run, {
    samples: [{ prompt: evil, text: "```\n# not a title" }],
  });
  const page = await readFile(html, "utf8");
  checkPage(page);
  expect(page).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
  expect(page).not.toMatch(/NaN|Infinity/);
  const text = await readFile(markdown, "utf8");
  expect(text).toContain("````\n");
  expect(text.replace(/````[\s\S]*?````/g, "")).not.toMatch(/[^\\]<script/);
});

it("a folder without metrics is an error, and is left as it is", async () => {
  const empty = join(dir, "empty");
  await mkdir(empty);
  await writeFile(join(empty, "metrics.jsonl"), "");
  const io = fakeIo();
  expect(await runCli(["report", empty], io, commands, "0")).toBe(1);
  expect(io.stderr.text).toContain(`${empty} holds no run with metrics`);
  expect(await readdir(empty)).toEqual(["metrics.jsonl"]);
});

it("a long run makes a small page", async () => {
  const run = join(dir, "long");
  await mkdir(run);
  const steps = Array.from({ length: 20_000 }, (_, i) => metricsOf(i + 1));
  await writeFile(join(run, "metrics.jsonl"), lines(steps));
  const { html } = await writeReport(run);
  expect((await readFile(html)).length).toBeLessThan(400_000);
});
