import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { secondsOf, stepsFor, stepsWithin } from "../demo/recipe.ts";
import { demoTexts, passages } from "../demo/texts.ts";
import { fakeIo } from "../testing.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-demo-"));
});
afterAll(() => rm(dir, { recursive: true }));

it("lives a whole life in a few steps: learns, is taught, measures, saves, answers and reports", async () => {
  const io = fakeIo();
  const out = join(dir, "demo");
  const argv = ["demo", "--steps", "3", "--compare-dense", "--out", out, "--json"];
  expect(await runCli(argv, io, commands, "0.0.0")).toBe(0);
  const result = JSON.parse(io.stdout.text);
  expect(result.models.map((m: { name: string }) => m.name)).toEqual([
    "mixture of experts",
    "dense",
  ]);
  const [moe, dense] = result.models;
  expect(Math.abs(moe.active / dense.active - 1)).toBeLessThan(0.002);
  for (const { tokens, steps, bitsPerByte } of result.models) {
    expect({ tokens, steps }).toEqual({ tokens: 3 * 512, steps: 3 });
    // Knowing nothing of 4096 tokens of 4 bytes is 3 bits a byte.
    expect(bitsPerByte).toBeGreaterThan(2);
    expect(bitsPerByte).toBeLessThan(3.2);
  }
  expect(result.samples).toHaveLength(3);
  expect((await readdir(out)).sort()).toEqual(
    ["chat", "dense", "grpo", "model", "moe", "report.html", "sft"].sort(),
  );
  for (const folder of [result.model, result.chat]) {
    const files = await readdir(folder);
    for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
      expect(files).toContain(name);
    }
  }
  const { lesson } = result;
  expect(lesson).toMatchObject({ task: "sort-letters", questions: 256 });
  // So few steps teach nothing.
  for (const scores of [lesson.afterFineTuning, lesson.afterRewards]) {
    expect(scores).toEqual({ greedy: 0, sampled: 0 });
  }
  expect(lesson.answers.map(({ prompt }: { prompt: string }) => prompt)).toEqual(
    Array(3).fill(expect.stringMatching(/^Sort [a-z]( [a-z]){2,6}\.$/)),
  );
  const page = await readFile(result.report, "utf8");
  for (const shown of ["Pre-training", "Fine-tuning", "GRPO", "mainLoss", "reward"]) {
    expect(page).toContain(shown);
  }
  expect(page).toContain("sort-letters, 256 unseen questions, after rewards");
  expect(page).toContain(lesson.answers[0].prompt);
  const config = JSON.parse(await readFile(join(result.model, "config.json"), "utf8"));
  expect(config).toMatchObject({ architectures: ["DeepseekV3ForCausalLM"], vocab_size: 4096 });

  const again = fakeIo();
  expect(await runCli(argv, again, commands, "0.0.0")).toBe(1);
  expect(again.stderr.text).toContain("exists already; give another --out");
}, 240_000);

it("takes the time that it is given, and stops on Ctrl-C with what it has", async () => {
  const io = fakeIo();
  const out = join(dir, "stopped");
  const { write } = io.stderr;
  io.stderr.write = function (text: string) {
    if (text.includes("fine-tuning")) io.interrupt();
    return write.call(this, text);
  };
  const argv = ["demo", "--seconds", "1", "--out", out];
  expect(await runCli(argv, io, commands, "0.0.0")).toBe(130);
  expect((await readdir(out)).sort()).toEqual(["model", "moe", "sft"]);
  expect(io.stdout.text).toContain(`generate --model ${join(out, "model")}`);
  expect(io.stdout.text).not.toContain("chat --model");
  expect(io.stdout.text).not.toContain("unseen questions");
}, 240_000);

it("shares out steps and seconds among the parts of the life", () => {
  expect(stepsFor(700)).toEqual({ preTraining: 700, fineTuning: 315, reinforcement: 35 });
  const parts = ["preTraining", "fineTuning", "reinforcement"] as const;
  for (const each of [0.05, 0.125, 0.25, 0.5, 1]) {
    const steps = stepsWithin(165, each);
    const seconds = parts.map((part) => secondsOf(part, steps, each));
    // A step of rewards takes seconds: they are rounded.
    expect(Math.abs(seconds.reduce((a, b) => a + b) - 165)).toBeLessThan(12 * each);
    expect(steps.fineTuning >= 315 || (seconds[1] as number) > 0.39 * 165, `${each}`).toBe(true);
  }
  expect(stepsWithin(0.01, 10)).toEqual(stepsFor(2));
});

it("no held-out passage is learnt from, and passages lose nothing but space between them", () => {
  const { train, heldOut } = demoTexts();
  const learnt = new Set(train);
  expect(heldOut.length).toBeGreaterThan(200);
  expect(heldOut.filter((text) => learnt.has(text))).toEqual([]);
  const bare = (text: string) => text.replace(/\s/g, "");
  const work = "One. Two! “Three?” four\nfive. ".repeat(200);
  const parts = passages(work);
  expect(parts.length).toBeGreaterThan(2);
  expect(bare(parts.join(""))).toBe(bare(work));
  expect(passages("")).toEqual([]);
});
