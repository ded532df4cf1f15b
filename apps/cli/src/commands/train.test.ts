import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

let dir: string;
let data: string;
let run: string;
const sentences = [
  "The sea was calm and the ship was still.",
  "A whale rose beside the ship and the men cried out.",
  "Nobody on the sea had seen a whale so white.",
];
const small = ["--preset", "tiny", "--vocab-size", "300", "--batch", "2", "--length", "16"];

async function dsv3(argv: string[], io: ReturnType<typeof fakeIo> = fakeIo()) {
  const code = await runCli(argv, io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-train-"));
  data = join(dir, "texts.jsonl");
  const lines = Array.from({ length: 30 }, (_, i) => sentences[i % 3]);
  await writeFile(data, lines.map((text) => JSON.stringify({ text })).join("\n"));
  run = join(dir, "run");
});
afterAll(() => rm(dir, { recursive: true }));

it("trains, stops on Ctrl-C with a checkpoint, goes on, and the model writes", {
  timeout: 60_000,
}, async () => {
  const io = fakeIo();
  const stopAt = 3;
  io.stderr.write = (text) => {
    if (text.includes("training")) io.interrupt();
    io.stderr.text += text;
  };
  const argv = ["train", "--data", data, "--out", run, ...small, "--steps", String(stopAt * 2)];
  const first = await dsv3(argv, io);
  expect(first.code).toBe(130);
  expect(first.out).toContain(`dsv3 train --resume ${run}`);

  const second = await dsv3(["train", "--resume", run, "--json"]);
  expect(second).toMatchObject({ code: 0 });
  const result = JSON.parse(second.out);
  expect(result).toMatchObject({ step: 6, tokens: 6 * 32, finished: true });
  const metrics = (await readFile(join(run, "metrics.jsonl"), "utf8")).trim().split("\n");
  expect(metrics.map((line) => JSON.parse(line).step)).toEqual([1, 2, 3, 4, 5, 6]);

  const ask = ["generate", "--model", result.model, "--max-new-tokens", "6", "--json"];
  const one = await dsv3([...ask, "--prompt", "The sea", "--seed", "3", "--top-k", "20"]);
  expect(one).toMatchObject({ code: 0, err: "" });
  const said = JSON.parse(one.out);
  expect(said.ids.length).toBeGreaterThan(0);
  expect(said.ids.length).toBeLessThanOrEqual(6);
  const piped = Object.assign(fakeIo(), {
    stdin: (async function* () {
      yield Buffer.from("The sea\n");
    })(),
  });
  const two = await dsv3([...ask, "--seed", "3", "--top-k", "20"], piped);
  expect({ ...JSON.parse(two.out), tokensPerSecond: 0 }).toEqual({ ...said, tokensPerSecond: 0 });

  const byIds = await dsv3([...ask, "--ids", said.promptIds.join(","), "--temperature", "0"]);
  const greedy = await dsv3([...ask, "--prompt", "The sea", "--temperature", "0"]);
  expect(JSON.parse(byIds.out).ids).toEqual(JSON.parse(greedy.out).ids);
  for (const weights of ["bf16", "i8"]) {
    const rounded = await dsv3([...ask, "--prompt", "The sea", "--weights", weights]);
    expect(rounded).toMatchObject({ code: 0, err: "" });
    expect(JSON.parse(rounded.out).promptIds).toEqual(said.promptIds);
  }
  const plain = ask.slice(0, -1);
  const streamed = await dsv3([...plain, "--prompt", "The sea", "--temperature", "0"]);
  expect(streamed.out).toBe(`The sea${JSON.parse(greedy.out).text}\n`);

  const outside = await dsv3([...ask, "--ids", "5,300"]);
  expect(outside).toMatchObject({ code: 1, out: "" });
  expect(outside.err).toContain("--ids: token 1 is 300, outside the vocabulary of 300");
  const busy = await dsv3(argv);
  expect(busy.err).toContain(`${run} exists already; give another --out`);
});

it("trains in phases to a longer context, keeps an average, and measures both", async () => {
  const short = join(dir, "short.json");
  const long = join(dir, "long.json");
  await writeFile(short, JSON.stringify([{ steps: 2, learningRate: 1e-3, mtpWeight: 0 }]));
  await writeFile(
    long,
    JSON.stringify({ steps: 1, learningRate: 1e-4, batch: 1, length: 160, yarn: { factor: 10 } }),
  );
  const out = join(dir, "phased");
  const argv = ["train", "--data", data, "--out", out, ...small, "--phase", `${short},${long}`];
  const more = ["--ema", "0.9", "--held-out", data, "--evaluate-every", "2", "--json"];
  const result = await dsv3([...argv, ...more]);
  expect(result.code, result.err).toBe(0);
  const { model, ema, step, tokens, evaluation } = JSON.parse(result.out);
  expect({ step, tokens }).toEqual({ step: 3, tokens: 2 * 32 + 160 });
  expect(evaluation.bitsPerByte).toBeGreaterThan(1);
  expect(evaluation.emaBitsPerByte).toBeGreaterThan(1);
  for (const folder of [model, ema]) {
    const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
    expect(config).toMatchObject({
      max_position_embeddings: 160,
      rope_scaling: { factor: 10, original_max_position_embeddings: 16 },
    });
    const ids = Array.from({ length: 140 }, (_, i) => 40 + (i % 200)).join(",");
    const said = await dsv3(["generate", "--model", folder, "--ids", ids, "--max-new-tokens", "3"]);
    expect(said).toMatchObject({ code: 0, err: "" });
  }

  await writeFile(long, JSON.stringify([{ steps: 1, learningRate: 1e-4, batch: 0 }]));
  const wrong = await dsv3([...argv.slice(0, 3), "--out", join(dir, "none"), "--phase", long]);
  expect(wrong.err).toContain(`${long}: [0]: batch should be a whole number of 1 or more, got 0`);
});

it("--size derives the model and its recipe; flags say otherwise", async () => {
  const out = join(dir, "sized");
  const argv = ["train", "--data", data, "--out", out, "--size", "1", "--vocab-size", "300"];
  const less = ["--batch", "2", "--length", "16", "--accumulate", "5", "--tokens", "900"];
  const longer = ["--extend", "24,48", "--extend-steps", "1", "--json"];
  const result = await dsv3([...argv, ...less, ...longer]);
  expect(result.code, result.err).toBe(0);
  const { settings, config } = JSON.parse(await readFile(join(out, "run.json"), "utf8"));
  expect(config).toMatchObject({ hiddenSize: 128, nRoutedExperts: 8, maxPositionEmbeddings: 256 });
  // The report's phases: a growing batch, then γ and λ of each.
  expect(settings).toMatchObject({ batch: 2, ramp: { from: 1 }, biasSpeed: 0.001, mtpWeight: 0.3 });
  expect(settings.laterPhases).toMatchObject([
    { biasSpeed: 0.001, mtpWeight: 0.1 },
    { biasSpeed: 0, mtpWeight: 0.1 },
    { steps: 1, length: 24, yarn: { factor: 3.75, originalMaxPositionEmbeddings: 16 } },
    { steps: 1, length: 48, batch: 1, yarn: { factor: 3.75 } },
  ]);
});

describe("refuses, and writes nothing:", () => {
  it.each<[message: string, code: number, argv: string[]]>([
    ["--data is missing", 2, ["--out", "OUT"]],
    ["--out is missing", 2, ["--data", "DATA"]],
    ["/nowhere", 1, ["--data", "/nowhere", "--out", "OUT"]],
    ['no preset "huge"', 1, ["--data", "DATA", "--out", "OUT", "--preset", "huge"]],
    [
      "cannot read /nowhere.json",
      1,
      ["--data", "DATA", "--out", "OUT", "--config", "/nowhere.json"],
    ],
    ["give one", 2, ["--data", "DATA", "--out", "OUT", "--preset", "tiny", "--config", "x"]],
    ["belong together", 2, ["--data", "DATA", "--out", "OUT", "--ramp-from", "1"]],
    ["cannot read /no.json", 1, ["--data", "DATA", "--out", "OUT", "--phase", "/no.json"]],
    ["give one", 2, ["--data", "DATA", "--out", "OUT", "--phase", "x", "--tokens", "9"]],
    ["give one", 2, ["--data", "DATA", "--out", "OUT", "--size", "1", "--preset", "tiny"]],
    ["goes with --tokens", 2, ["--data", "DATA", "--out", "OUT", "--extend", "256"]],
    [
      "each above the one before",
      2,
      ["--data", "DATA", "--out", "OUT", "--tokens", "999", "--extend", "256,200"],
    ],
    ["holds no run to resume", 1, ["--resume", "OUT"]],
    ["leave out the rest (--data)", 2, ["--resume", "OUT", "--data", "DATA"]],
    ["leave out the rest (--steps)", 2, ["--resume", "OUT", "--steps", "9"]],
    ["leave out the rest (--remat)", 2, ["--resume", "OUT", "--remat"]],
    ["maxPositionEmbeddings", 1, ["--data", "DATA", "--out", "OUT", "--length", "100000"]],
  ])("%s", async (message, code, argv) => {
    const words = argv.map((w) => (w === "OUT" ? join(dir, "none") : w === "DATA" ? data : w));
    const result = await dsv3(["train", ...words]);
    expect(result).toMatchObject({ code, out: "", err: expect.stringContaining(message) });
    expect((await readdir(dir)).includes("none")).toBe(false);
  });

  it.each<[message: string, code: number, argv: string[]]>([
    ["no tokenizer in /nowhere", 1, ["--model", "/nowhere", "--prompt", "x"]],
    ["two ways", 2, ["--model", "/nowhere", "--prompt", "x", "--ids", "1"]],
    ["is no token id", 2, ["--model", "/nowhere", "--ids", "1,x"]],
    ["nothing is piped in", 2, ["--model", "RUN"]],
    ["but must be above it", 2, ["--model", "/nowhere", "--top-p", "0"]],
  ])("generate: %s", async (message, code, argv) => {
    const words = argv.map((word) => (word === "RUN" ? run : word));
    const result = await dsv3(["generate", ...words]);
    expect(result).toMatchObject({ code, out: "", err: expect.stringContaining(message) });
  });
});
