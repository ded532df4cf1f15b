import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

let dir: string;
let model: string;

async function dsv3(argv: string[], io: ReturnType<typeof fakeIo> = fakeIo()) {
  const code = await runCli(argv, io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-grpo-"));
  const texts = join(dir, "texts.jsonl");
  const text = JSON.stringify({ text: "one two three four five six seven" });
  await writeFile(texts, Array(10).fill(text).join("\n"));
  const argv = ["--preset", "tiny", "--vocab-size", "300", "--batch", "2", "--length", "16"];
  const made = ["train", "--data", texts, "--out", join(dir, "base"), ...argv, "--steps", "1"];
  model = JSON.parse((await dsv3([...made, "--json"])).out).model;
}, 60_000);
afterAll(() => rm(dir, { recursive: true }));

const SMALL = ["--backend", "wasm", "--questions", "2", "--group", "2", "--max-tokens", "4"];

it("draws, learns, stops on Ctrl-C with a checkpoint, goes on, measures and reports", async () => {
  const out = join(dir, "run");
  const io = fakeIo();
  io.stderr.write = (text) => {
    if (text.includes("reinforcement")) io.interrupt();
    io.stderr.text += text;
  };
  const argv = ["grpo", "--model", model, "--task", "reverse", "--language", "en", "--out", out];
  const first = await dsv3([...argv, ...SMALL, "--steps", "3", "--loss", "dapo"], io);
  expect(first.code).toBe(130);
  expect(first.out).toContain(`dsv3 grpo --resume ${out}`);

  const second = await dsv3(["grpo", "--resume", out, "--backend", "wasm", "--json"]);
  expect(second).toMatchObject({ code: 0 });
  const result = JSON.parse(second.out);
  expect(result).toMatchObject({ finished: true, step: 3, after: { "pass@1": 0, "pass@8": 0 } });
  const files = await readdir(result.model);
  expect(files).toEqual(expect.arrayContaining(["model.safetensors", "tokenizer.json"]));
  const lines = (await readFile(join(out, "metrics.jsonl"), "utf8")).trim().split("\n");
  expect(lines).toHaveLength(3);
  expect(JSON.parse(lines[0] as string)).toMatchObject({
    ...{ step: 1, reward: 0, frac_reward_zero_std: 1, "rewards/task/mean": 0 },
    evaluation: { "pass@1": 0 },
  });
  expect(await readFile(join(out, "report.md"), "utf8")).toContain("reward");
}, 60_000);

it("takes questions from a file, and several rewards with weights", async () => {
  const data = join(dir, "questions.jsonl");
  const questions = [
    { prompt: "What is 1 + 1?", answer: 2 },
    { problem: "Write add.", answer: "3", tests: "if (add(1, 2) !== 3) throw 1" },
  ];
  await writeFile(data, questions.map((q) => JSON.stringify(q)).join("\n"));
  const rewards = ["--reward", "number", "--reward", "boxed*0.1", "--reward", "length=2*0.5"];
  const argv = ["grpo", "--model", model, "--data", data, "--out", join(dir, "mixed"), "--json"];
  const { code } = await dsv3([...argv, ...SMALL, ...rewards, "--steps", "1"]);
  expect(code).toBe(0);
  const line = JSON.parse(await readFile(join(dir, "mixed/metrics.jsonl"), "utf8"));
  // Untrained outputs run to the limit of 4 tokens: −1, half of which counts.
  expect(line["rewards/length/mean"]).toBeLessThan(0);
  expect(line.reward).toBeCloseTo(0.5 * line["rewards/length/mean"], 6);
}, 60_000);

it.each([
  [["--task", "reverse"], "--model is missing"],
  [["--model", "M", "--out", "O"], "give --task or --data"],
  [["--model", "M", "--task", "reverse"], "--out is missing"],
  [["--model", "M", "--task", "dance", "--out", "O"], "--task"],
  [["--model", "M", "--task", "sort", "--out", "O", "--reward", "joy"], "names are task, exact"],
  [["--model", "M", "--task", "sort", "--out", "O", "--reward", "regex"], "needs an expression"],
  [["--model", "M", "--task", "sort", "--out", "O", "--reward", "length=x"], "number of tokens"],
  [["--model", "M", "--task", "sort", "--out", "O", "--reward", "exact=3"], "takes no argument"],
  [["--resume", "R", "--task", "sort"], "--resume takes everything"],
])("refuses %j", async (argv, message) => {
  const { code, err } = await dsv3(["grpo", "--backend", "wasm", ...argv]);
  expect(code).toBe(2);
  expect(err).toContain(message);
});

it("names the line of a record that is no question", async () => {
  const data = join(dir, "bad.jsonl");
  await writeFile(data, '{"prompt": "a", "answer": "b"}\n{"answer": "c"}\n');
  const argv = ["grpo", "--model", model, "--data", data, "--out", join(dir, "bad"), ...SMALL];
  const { code, err } = await dsv3(argv);
  expect(code).toBe(1);
  expect(err).toContain("bad.jsonl:2: no question");
});
