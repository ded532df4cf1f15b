import { describe, expect, it } from "vitest";
import { type EvaluateOptions, evaluate, type Sample } from "./evaluate.ts";
import { selectTasks } from "./tasks/registry.ts";
import { listSource, taskOf } from "./testing/documents.ts";
import { FakeModel, type FakeOptions } from "./testing/fake-model.ts";

const piqa = (n: number) => ({ goal: `goal ${n}`, sol1: "left", sol2: "right", label: n % 2 });
const RECORDS = {
  piqa: {
    validation: [0, 1, 2, 3, 4, 5].map(piqa),
    train: [10, 11, 12, 13].map(piqa),
  },
};

async function run(options: Partial<EvaluateOptions> = {}, fake: FakeOptions = {}) {
  const samples: Sample[] = [];
  const model = new FakeModel(fake);
  const results = await evaluate({
    tasks: [taskOf("piqa")],
    model,
    source: listSource(RECORDS),
    onSample: (sample) => samples.push(sample),
    ...options,
  });
  return { results, samples, model };
}

const heads = (samples: Sample[]) =>
  samples
    .toSorted((a, b) => a.index - b.index)
    .map(({ answer }) => answer.requests[0]?.[0]?.split("\n\n") ?? []);

describe("evaluate", () => {
  it("gives results in the harness's layout", async () => {
    const { results } = await run(
      { limit: 4 },
      { logprob: (_, text) => (text === " left" ? -1 : -2) },
    );
    expect(results).toMatchObject({
      results: {
        piqa: {
          alias: "piqa",
          "acc,none": 0.5,
          "acc_stderr,none": Math.sqrt(1 / 12),
          "acc_norm,none": 0.5,
        },
      },
      group_subtasks: {},
      configs: {
        piqa: { task: "piqa", dataset_path: "baber/piqa", output_type: "multiple_choice" },
      },
      versions: { piqa: 1 },
      "n-shot": { piqa: 0 },
      higher_is_better: { piqa: { acc: true, acc_norm: true } },
      "n-samples": { piqa: { original: 6, effective: 4 } },
      config: { limit: 4 },
    });
    expect(results).not.toHaveProperty("groups");
    expect(Number(results.total_evaluation_time_seconds)).toBeGreaterThan(0);
  });

  it("gives the same, whatever is worked on at once", async () => {
    const one = await run({ parallel: 1, numFewShot: 2 });
    const many = await run({ parallel: 100, numFewShot: 2 });
    expect(many.results.results).toEqual(one.results.results);
    expect(heads(many.samples)).toEqual(heads(one.samples));
  });

  it("tells how far it is", async () => {
    const seen: number[] = [];
    await run({ onProgress: ({ done, total }) => seen.push(done, total) });
    expect(seen).toEqual([1, 6, 2, 6, 3, 6, 4, 6, 5, 6, 6, 6]);
  });

  it("weighs a group's tasks by their documents", async () => {
    const mmlu = (answer: number) => ({ question: "?", choices: ["a", "b", "c", "d"], answer });
    const selection = selectTasks(["mmlu_stem"]);
    const tasks = selection.tasks.slice(0, 2);
    const [first, second] = tasks.map(({ name }) => name) as [string, string];
    const source = listSource({
      [first]: { test: [mmlu(0)] },
      [second]: { test: [mmlu(1), mmlu(0), mmlu(1)] },
    });
    const { results } = await run({ ...selection, tasks, source });
    // All choices are as likely: the first is taken. 1 of 1, and 1 of 3.
    expect(results.groups?.mmlu_stem).toMatchObject({ "acc,none": 0.5 });
    expect(results.results.mmlu_stem).toEqual(results.groups?.mmlu_stem);
    expect(results.results[second]).toMatchObject({ "acc,none": 1 / 3 });
    expect(results.results[first]).toMatchObject({ "acc_stderr,none": "N/A" });
  });
});

describe("few-shot", () => {
  it("puts solved documents before the question, others for each, the same every time", async () => {
    const { samples } = await run({ numFewShot: 2 });
    const parts = heads(samples);
    for (const [i, [one, two, question, ...rest]] of parts.entries()) {
      expect(rest).toEqual([]);
      expect(question).toBe(`Question: goal ${i}\nAnswer:`);
      for (const example of [one, two]) {
        expect(example).toMatch(/^Question: goal 1[0-3]\nAnswer: (left|right)$/);
      }
      expect(one).not.toBe(two);
    }
    expect(new Set(parts.map((part) => part.slice(0, 2).join())).size).toBeGreaterThan(1);
    expect(heads((await run({ numFewShot: 2 })).samples)).toEqual(parts);
    expect(heads((await run({ numFewShot: 2, seed: 5 })).samples)).not.toEqual(parts);
  });

  it("takes the first ones where the task says so, after its description", async () => {
    const mmlu = (question: string) => ({ question, choices: ["a", "b", "c", "d"], answer: 1 });
    const source = listSource({
      mmlu_virology: { test: [mmlu("q")], dev: [mmlu("one"), mmlu("two"), mmlu("three")] },
    });
    const { samples } = await run({ tasks: [taskOf("mmlu_virology")], source, numFewShot: 2 });
    const choices = "A. a\nB. b\nC. c\nD. d\nAnswer:";
    expect(samples[0]?.answer.requests[0]?.[0]).toBe(
      "The following are multiple choice questions (with answers) about virology.\n\n" +
        `one\n${choices} B\n\ntwo\n${choices} B\n\nq\n${choices}`,
    );
  });

  it("never shows a document as its own example, and says when there are too few", async () => {
    const task = {
      ...taskOf("piqa"),
      fewShot: { split: "validation", count: 5, sampler: "random" },
    } as const;
    const { samples } = await run({ tasks: [task] });
    for (const [i, part] of heads(samples).entries()) {
      expect(part.slice(0, 5).some((example) => example.includes(`goal ${i}\n`))).toBe(false);
    }
    await expect(run({ numFewShot: 5 })).rejects.toThrow(
      "piqa: 5 examples are wanted, but its split train has 4",
    );
  });
});

it("draws several answers to each question, each from a seed of its own", async () => {
  const seen: unknown[] = [];
  const answers: FakeOptions["answers"] = (_, { n, temperature, seed }) => {
    seen.push([n, temperature, seed]);
    return ["a", "b", "c"];
  };
  const options = { tasks: [taskOf("rule_sort")], limit: 3, repeats: 3, temperature: 0.5, seed: 7 };
  const { results } = await run({ ...options, parallel: 1 }, { answers });
  expect(seen).toEqual([
    [3, 0.5, 7],
    [3, 0.5, 8],
    [3, 0.5, 9],
  ]);
  expect(results.results.rule_sort).toMatchObject({ "pass@1,none": 0, "pass@3,none": 0 });
  expect(results.higher_is_better.rule_sort).toMatchObject({ "pass@3": true });
  expect(results["n-samples"].rule_sort).toEqual({ original: 200, effective: 3 });
});

describe("bad input", () => {
  it("is told with file, line and field before anything is asked", async () => {
    const source = listSource({ piqa: { validation: [piqa(0), { goal: "g" }] } });
    const model = new FakeModel();
    await expect(run({ source, model })).rejects.toThrow(
      "piqa: made-up.jsonl:2: sol1: expected a text, found nothing",
    );
    expect(model.scored).toEqual([]);
  });

  it("no documents", async () => {
    const source = listSource({ piqa: { validation: [] } });
    await expect(run({ source })).rejects.toThrow("piqa: its split validation has no documents");
  });

  it("code is not run unasked", async () => {
    await expect(run({ tasks: [taskOf("humaneval")] })).rejects.toThrow("allowCode");
  });

  it("a failing model ends it with its error; what is too long names the task", async () => {
    const failing = {
      logprob: () => {
        throw new Error("the device is gone");
      },
    };
    await expect(run({}, failing)).rejects.toThrow("the device is gone");
    await expect(run({}, { maxLength: 3 })).rejects.toThrow("piqa: a continuation of 5 tokens");
  });

  it("an abort ends it", async () => {
    const controller = new AbortController();
    const done: number[] = [];
    const options = {
      parallel: 1,
      signal: controller.signal,
      onSample: ({ index }: Sample) => {
        done.push(index);
        if (index === 1) controller.abort(new Error("enough"));
      },
    };
    await expect(run(options)).rejects.toThrow("enough");
    expect(done).toEqual([0, 1]);
  });
});
