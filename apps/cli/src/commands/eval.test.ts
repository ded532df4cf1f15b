import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo, fakeSink, screen } from "../testing.ts";

let dir: string;
let model: string;
let data: string;

async function dsv3(argv: string[], io: ReturnType<typeof fakeIo> = fakeIo()) {
  const code = await runCli(argv, io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

const lines = (records: readonly unknown[]) =>
  records.map((record) => `${JSON.stringify(record)}\n`).join("");

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-eval-"));
  const texts = join(dir, "texts.jsonl");
  await writeFile(texts, lines(Array(10).fill({ text: "one two three four five six seven" })));
  const argv = ["--preset", "tiny", "--vocab-size", "300", "--batch", "2", "--length", "16"];
  const made = ["train", "--data", texts, "--out", join(dir, "run"), ...argv, "--steps", "1"];
  model = JSON.parse((await dsv3([...made, "--json"])).out).model;
  data = join(dir, "data");
  const mmlu = { question: "one?", choices: ["one", "two", "three", "four"], answer: 0 };
  const splits = {
    "piqa/validation": [0, 1, 1].map((label) => ({ goal: "go", sol1: "one", sol2: "two", label })),
    "piqa/train": [{ goal: "go", sol1: "three", sol2: "four", label: 0 }],
    "mmlu_virology/test": [mmlu],
    "lambada_openai/test": [{ text: "one two three" }],
    "humaneval/test": [{ prompt: "p", test: "t", entry_point: "e" }],
    "boolq/validation": [{ passage: "p", question: "q", label: 5 }],
  };
  for (const [name, records] of Object.entries(splits)) {
    await mkdir(join(data, name, ".."), { recursive: true });
    await writeFile(join(data, `${name}.jsonl`), lines(records));
  }
}, 60_000);
afterAll(() => rm(dir, { recursive: true }));

const evaluating = (...argv: string[]) => ["eval", "--model", model, "--data", data, ...argv];

describe("dsv3 eval", () => {
  it("prints a table, with what others published, and writes results and samples whole", async () => {
    const [out, samples] = [join(dir, "results.json"), join(dir, "samples.jsonl")];
    const texts = ["--texts", join(dir, "texts.jsonl"), "--out", out, "--samples", samples];
    const run = await dsv3(
      evaluating("--tasks", "piqa,lambada_openai", "--num-fewshot", "1", ...texts),
    );
    expect(run).toMatchObject({ code: 0 });
    expect(run.out).toMatch(/^piqa +3 +1 +acc +[01]\.\d{4} +± 0\.\d{4}$/m);
    expect(run.out).toMatch(/^ +perplexity|^lambada_openai +1 +0 +perplexity/m);
    expect(run.out).toMatch(/^text_texts\.jsonl +10 +0 +word_perplexity/m);
    expect(run.out).toMatch(/bits_per_byte +\d+\.\d{4}$/m);
    expect(run.out).toMatch(/^piqa +DeepSeek-V3-Base +84\.7 +0-shot +arXiv 2412\.19437, table 3$/m);
    expect(run.err).toMatch(/^evaluating 100%/m);

    const results = JSON.parse(await readFile(out, "utf8"));
    expect(results["n-samples"].piqa).toEqual({ original: 3, effective: 3 });
    expect(results["n-shot"]).toEqual({ piqa: 1, lambada_openai: 0, "text_texts.jsonl": 0 });
    expect(results.config).toMatchObject({ model: "dsv3", model_args: model, limit: null });
    const logged = (await readFile(samples, "utf8"))
      .trim()
      .split("\n")
      .map((l) => JSON.parse(l));
    expect(logged).toHaveLength(14);
    const first = logged.find(({ task, doc_id }) => task === "piqa" && doc_id === 0);
    expect(first).toMatchObject({
      doc: { goal: "go", sol1: "one", sol2: "two", label: 0 },
      target: 0,
      arguments: [
        ["Question: go\nAnswer: three\n\nQuestion: go\nAnswer:", " one"],
        ["Question: go\nAnswer: three\n\nQuestion: go\nAnswer:", " two"],
      ],
    });
    expect(first.resps[0][0]).toBeLessThan(0);
    expect((await readdir(dir)).filter((name) => name.endsWith(".partial"))).toEqual([]);
  }, 60_000);

  it("prints JSON in the harness's layout, and nothing else, on stdout", async () => {
    const run = await dsv3(evaluating("--tasks", "piqa", "--limit", "2", "--json"));
    const results = JSON.parse(run.out);
    expect(results.results.piqa).toMatchObject({ alias: "piqa", "acc,none": expect.any(Number) });
    expect(results["n-samples"].piqa).toEqual({ original: 3, effective: 2 });
  }, 60_000);

  it("asks rule-made questions as a user does, several times", async () => {
    const sampled = ["--repeats", "2", "--temperature", "1", "--max-new-tokens", "4"];
    const run = await dsv3(
      evaluating("--tasks", "rule_sort", "--limit", "2", "--json", ...sampled),
    );
    // This vocabulary has the tokens of conversations.
    expect(run).toMatchObject({ code: 0 });
    expect(JSON.parse(run.out).results.rule_sort).toMatchObject({
      "pass@1,none": expect.any(Number),
      "pass@2,none": expect.any(Number),
    });
  }, 60_000);

  it("shows a bar with the time left in a terminal", async () => {
    const io = { ...fakeIo(), stderr: fakeSink(80) };
    await dsv3(evaluating("--tasks", "piqa"), io);
    expect(screen(io.stderr.text)[0]).toMatch(/^evaluating █{24} 100% +\S+ tokens\/s +\d+s$/);
  }, 60_000);

  it("leaves nothing half-written when it is stopped or fails", async () => {
    const samples = join(dir, "stopped.jsonl");
    const io = fakeIo();
    io.interrupt();
    const stopped = await dsv3(evaluating("--tasks", "piqa", "--samples", samples), io);
    expect(stopped.code).toBe(130);
    const failed = await dsv3(evaluating("--tasks", "boolq", "--samples", samples));
    expect(failed.code).toBe(1);
    expect(failed.err).toContain("boolq/validation.jsonl:1: label: expected a whole number");
    expect((await readdir(dir)).filter((name) => name.startsWith("stopped"))).toEqual([]);
    for (const flag of ["--samples", "--out"]) {
      const io = fakeIo();
      const nowhere = await dsv3(evaluating("--tasks", "piqa", flag, join(dir, "no/where")), io);
      expect(nowhere.code).toBe(1);
      // Before the work, not after it.
      expect(nowhere.err).toMatch(/^dsv3 eval: cannot write .*no\/where/);
    }
  }, 60_000);

  it("lists what there is", async () => {
    const { out } = await dsv3(["eval", "--list"]);
    expect(out).toMatch(
      /^piqa +multiple_choice +baber\/piqa validation: goal, sol1, sol2, label$/m,
    );
    expect(out).toMatch(/^mmlu +57 tasks: mmlu_abstract_algebra/m);
    const { tasks, groups } = JSON.parse((await dsv3(["eval", "--list", "--json"])).out);
    expect(tasks.length).toBeGreaterThan(140);
    expect(groups).toHaveLength(6);
  });

  it.each([
    [["--tasks", "piqa"], "--model is missing"],
    [["--model", "x"], "--tasks or --texts is missing"],
    [["--model", "x", "--tasks", "piqua"], 'no task "piqua"; did you mean piqa?'],
    [["--model", "x", "--tasks", "chess"], 'no task "chess"; --list shows them all'],
    [["--model", "x", "--tasks", "humaneval"], "--allow-code"],
    [["--model", "x", "--tasks", "piqa", "--repeats", "2"], "give a temperature"],
    [["--model", "x", "--tasks", "piqa", "--limit", "0"], "--limit"],
  ])("refuses %j", async (argv, message) => {
    const { code, err } = await dsv3(["eval", ...argv]);
    expect(code).toBe(2);
    expect(err).toContain(message);
  });

  it("says where the documents should be", async () => {
    const { code, err } = await dsv3(evaluating("--tasks", "winogrande"));
    expect(code).toBe(1);
    expect(err).toContain("winogrande");
    expect(err).toContain("sentence, option1, option2, answer");
  });
});
