import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { trainBpe } from "@dsv3/tokenizer";
import { saveTokenizer } from "@dsv3/tokenizer/node";
import { afterAll, beforeAll, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

let dir: string;
let tokenizer: string;
let shards: string;
const sentences = [
  "The sea was calm and the ship was still.",
  "A whale rose beside the ship and the men cried out.",
  "Nobody on the sea had seen a whale so white.",
];

async function dsv3(argv: string[], io: ReturnType<typeof fakeIo> = fakeIo()) {
  const code = await runCli(argv, io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-data-"));
  tokenizer = join(dir, "tokenizer");
  shards = join(dir, "shards");
  await saveTokenizer(trainBpe(sentences, { vocabSize: 300 }), tokenizer);
  const lines = Array.from({ length: 30 }, (_, i) => ({ text: `${i}: ${sentences[i % 3]}` }));
  await writeFile(join(dir, "a.jsonl"), lines.map((line) => JSON.stringify(line)).join("\n"));
  const more = [...lines.slice(0, 4), { text: "A new one, of the sea." }, { body: "x" }];
  await writeFile(join(dir, "b.jsonl"), more.map((line) => JSON.stringify(line)).join("\n"));
});
afterAll(() => rm(dir, { recursive: true }));

it("prepares a mix, says what it left out, and shows it", async () => {
  const [a, b] = [join(dir, "a.jsonl"), join(dir, "b.jsonl")];
  const argv = ["data", "prepare", "--data", `3:${a},1:${b}`, "--tokenizer", tokenizer];
  const out = ["--out", `${shards}/`, "--shard-tokens", "400", "--threads", "1"];
  const strict = await dsv3([...argv, ...out]);
  expect(strict).toMatchObject({ code: 1, out: "" });
  expect(strict.err).toContain(`${b}:6: expected text, content`);
  expect(strict.err).toContain("(--skip-bad goes on without it)");

  const done = await dsv3([...argv, ...out, "--skip-bad"]);
  expect(done).toMatchObject({ code: 0 });
  expect(done.err).toContain(`warning: ${b}:6: expected text`);
  const rows = done.out.split("\n").map((line) => line.split(/ {2,}/));
  expect(rows[0]?.slice(6)).toEqual(["equal", "similar", "empty", "bad"]);
  expect(rows.find(([name]) => name === a)?.slice(1, 3)).toEqual(["75.0%", "30"]);
  expect(rows.findLast(([name]) => name === b)).toEqual([b, "4", "0", "0", "1"]);
  expect(done.out).toContain("Next: dsv3 train --data");

  const shown = await dsv3(["data", "inspect", shards, "--verify", "--json"]);
  expect(shown).toMatchObject({ code: 0 });
  const manifest = JSON.parse(shown.out);
  expect(manifest).toMatchObject({ verified: true, fimRate: 0.1, tokenBytes: 2 });
  expect(manifest.sources.map(({ documents }: { documents: number }) => documents)).toEqual([
    30, 1,
  ]);
  expect((await dsv3(["data", "inspect", dir])).err).toContain("no folder of prepared data");
});

it("refuses paths with and without weights together", async () => {
  const rest = ["--tokenizer", tokenizer, "--out", join(dir, "no")];
  const refused = async (data: string) =>
    (await dsv3(["data", "prepare", "--data", data, ...rest])).err;
  expect(await refused(`3:${dir},${dir}`)).toContain(`none to ${dir}`);
  expect(await refused(`0:${dir}`)).toContain("the weight 0");
  expect(await refused(`${dir},`)).toContain("an empty path");
});

it("trains on the shards, stops, and goes on to the same losses", { timeout: 60_000 }, async () => {
  const small = ["--preset", "tiny", "--batch", "2", "--length", "16", "--steps", "4"];
  const losses = async (run: string) =>
    (await readFile(join(run, "metrics.jsonl"), "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).mainLoss);
  const whole = join(dir, "whole");
  const straight = await dsv3(["train", "--data", shards, "--out", whole, ...small]);
  expect(straight).toMatchObject({ code: 0 });
  expect(straight.err).toContain("31 documents");

  const stopped = join(dir, "stopped");
  const io = fakeIo();
  io.stderr.write = (text) => {
    if (text.includes("training")) io.interrupt();
    io.stderr.text += text;
  };
  expect((await dsv3(["train", "--data", shards, "--out", stopped, ...small], io)).code).toBe(130);
  expect((await losses(stopped)).length).toBeLessThan(4);
  expect((await dsv3(["train", "--resume", stopped])).code).toBe(0);
  expect(await losses(stopped)).toEqual(await losses(whole));

  const other = await dsv3([
    "train",
    "--data",
    shards,
    "--tokenizer",
    tokenizer,
    "--out",
    join(dir, "y"),
  ]);
  expect(other).toMatchObject({ code: 2 });
  const mixed = await dsv3(["train", "--data", `${shards},${dir}`, "--out", join(dir, "x")]);
  expect(mixed.err).toContain("prepared data, which is trained on alone");

  // Other data under the same name is not what the run was started with.
  await rm(shards, { recursive: true });
  const argv = ["--data", join(dir, "a.jsonl"), "--tokenizer", tokenizer, "--out", shards];
  expect((await dsv3(["data", "prepare", ...argv])).code).toBe(0);
  expect((await dsv3(["train", "--resume", stopped])).err).toContain("is not the data that");
});
