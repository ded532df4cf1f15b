import { appendFile, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { RunLog } from "./run-log.ts";
import { isEventFile } from "./tensorboard.ts";
import { crc32c, readEvents } from "./testing-events.ts";

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-log-"));
});
afterEach(() => rm(dir, { recursive: true }));

const lineOf = (step: number) => ({
  ...{ step, loss: 5 / step, seconds: step * 10, note: "text", bad: Number.NaN },
  ...{ "completions/mean_length": step, evaluation: { bitsPerByte: 2, odd: null } },
});

async function write(log: RunLog, from: number, to: number): Promise<void> {
  for (let step = from; step <= to; step++) await log.write(lineOf(step), [[step, 0]]);
}

async function jsonLines(name: string): Promise<{ step: number }[]> {
  const text = await readFile(join(dir, name), "utf8");
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

/** Of the one event file that is in use, after its head. */
async function events() {
  const names = (await readdir(dir)).filter(isEventFile).sort();
  const files = await Promise.all(names.map((name) => readFile(join(dir, name))));
  expect(files.slice(0, -1).every(({ length }) => length === 0)).toBe(true);
  expect(files.length).toBeLessThanOrEqual(2);
  return readEvents(files.at(-1) as Buffer).slice(2);
}

const scalarsAt = (step: number) => [
  ["train/loss", Math.fround(5 / step)],
  ["train/seconds", step * 10],
  ["completions/mean_length", step],
  ["evaluation/bitsPerByte", 2],
];

it("says the same to people and to TensorBoard", async () => {
  await write(await RunLog.open(dir, 0, 5), 1, 5);
  expect((await jsonLines("metrics.jsonl")).map(({ step }) => step)).toEqual([1, 2, 3, 4, 5]);
  const read = await events();
  expect(read.map(({ step, scalars }) => [step, scalars])).toEqual(
    [1, 2, 3, 4, 5].map((step) => [step, scalarsAt(step)]),
  );
  expect(Math.abs((read[4]?.wallTime ?? 0) - Date.now() / 1e3)).toBeLessThan(60);
});

it("goes on after a checkpoint: later steps are forgotten everywhere, as is what a death left half written", async () => {
  await write(await RunLog.open(dir, 0, 8), 1, 6);
  for (const name of await readdir(dir)) await appendFile(join(dir, name), '{"step":3,"lo');
  // The file in use is another process's, and the one before it is out of use.
  const [old] = (await readdir(dir)).filter(isEventFile) as [string];
  await rename(join(dir, old), join(dir, "events.out.tfevents.1000000002.elsewhere.7"));
  await writeFile(join(dir, "events.out.tfevents.1000000001.elsewhere.7"), "");
  await write(await RunLog.open(dir, 4, 8), 5, 8);
  const all = [1, 2, 3, 4, 5, 6, 7, 8];
  for (const name of ["metrics.jsonl", "loads.jsonl"]) {
    expect((await jsonLines(name)).map(({ step }) => step)).toEqual(all);
  }
  const read = await events();
  expect(read.map(({ step, scalars }) => [step, scalars])).toEqual(
    all.map((step) => [step, scalarsAt(step)]),
  );
  // Steps that were kept lie as far apart as they took.
  const [second, fourth] = [read[1]?.wallTime ?? 0, read[3]?.wallTime ?? 0];
  expect(fourth - second).toBeCloseTo(20, 3);
});

it("spreads the loads of a long run over few lines", async () => {
  await write(await RunLog.open(dir, 0, 1000), 1, 1000);
  expect((await jsonLines("loads.jsonl")).map(({ step }) => step)).toEqual(
    Array.from({ length: 200 }, (_, i) => 5 * (i + 1)),
  );
});

it("the tests' checksum is CRC-32C: the check value of its definition", () => {
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
});
