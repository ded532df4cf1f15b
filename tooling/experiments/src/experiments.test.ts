import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { balancing } from "./balancing.ts";
import { context } from "./context.ts";
import { type Experiment, main } from "./experiment.ts";
import { grpo } from "./grpo.ts";
import { moeVsDense } from "./moe-vs-dense.ts";
import { mtp } from "./mtp.ts";
import { shakespeare } from "./shakespeare.ts";

let dir: string;
let text: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-experiments-"));
  text = join(dir, "text.txt");
  const words = ["the", "sea", "was", "calm", "and", "a", "whale", "rose", "beside", "ships"];
  const sentence = (i: number) => words.map((_, j) => words[(i * 7 + j * (i % 5)) % 10]).join(" ");
  await writeFile(text, Array.from({ length: 3000 }, (_, i) => `${sentence(i)}.\n`).join(""));
});
afterAll(() => rm(dir, { recursive: true }));

/** What a run of the program prints last: its table, a row a line. */
async function table(experiment: Experiment, ...argv: string[]): Promise<string[][]> {
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    await main(experiment, ["--backend", "wasm", "--quick", "--steps", "3", ...argv]);
    const lines = String(log.mock.calls.at(-1)?.[0]).split("\n");
    return lines.map((line) =>
      line
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  } finally {
    log.mockRestore();
  }
}

test.each<[Experiment, string[], string]>([
  [shakespeare, ["processor"], "best validation loss"],
  [moeVsDense, ["moe", "dense"], "held-out bits per byte"],
  [balancing, ["biases", "sequence-loss", "neither"], "busiest expert / mean"],
  [mtp, ["with", "without"], "loss of the token after the next"],
  [context, ["extended"], "bits per byte in 64"],
])(
  "$name trains and tells",
  {
    timeout: 120_000,
  },
  async (experiment, runs, column) => {
    const out = join(dir, experiment.name);
    const argv = ["--text", text, "--out", out];
    const [head, , ...rows] = await table(experiment, ...argv);
    expect(rows.map((row) => row[0])).toEqual(runs);
    expect(Number.parseFloat(rows[0]?.[head?.indexOf(column) as number] as string)).toBeGreaterThan(
      0,
    );
    const outcome = JSON.parse(await readFile(join(out, `${runs[0]}.json`), "utf8"));
    const steps = outcome.curve.map((m: { step: number }) => m.step);
    expect(steps.slice(0, 3)).toEqual([1, 2, 3]);
    // The second time, it takes what is there.
    if (experiment === moeVsDense) {
      expect(await table(experiment, ...argv)).toEqual([head, expect.anything(), ...rows]);
    }
  },
);

test.each([
  [["--backend", "abacus"], "expected cuda, wasm or auto"],
  [["--steps", "many"], "--steps"],
  [["--precision", "f16"], "expected f32, bf16 or fp8"],
])("wrong flags %j", async (argv, message) => {
  await expect(main(mtp, ["--out", dir, ...argv])).rejects.toThrow(message);
});

test("grpo tells what rewards and more examples came to, for the same time", {
  timeout: 120_000,
}, async () => {
  const out = join(dir, "grpo");
  const [head, , ...rows] = await table(grpo, "--out", out);
  expect(head).toEqual(["run", "steps", "seconds", "pass@1", "pass@8"]);
  expect(rows.map((row) => row[0])).toEqual(["fine-tuning", "then GRPO", "then more fine-tuning"]);
  expect(rows.slice(0, 2).map((row) => row[1])).toEqual(["3", "3"]);
  for (const row of rows) expect(row[3]).toMatch(/^\d+\.\d %$/);
  const seconds = rows.map((row) => Number(row[2]));
  expect(seconds[2]).toBeGreaterThanOrEqual(seconds[1] as number);
});
