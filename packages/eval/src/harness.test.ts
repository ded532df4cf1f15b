import { describe, expect, it } from "vitest";
import harness from "./__fixtures__/harness.json" with { type: "json" };
import { evaluate } from "./evaluate.ts";
import { listSource, taskOf } from "./testing/documents.ts";
import { FakeModel } from "./testing/fake-model.ts";

/**
 * lm-evaluation-harness 0.4.13 ran its own tasks over the documents of the fixture, which are made up,
 * with a model whose scores are this function of the texts. See __fixtures__/README.md.
 */
function values(context: string, continuation: string): number[] {
  const before = [...context];
  const last = before.at(-1)?.codePointAt(0) ?? 0;
  return [...continuation].map((character, i) => {
    const code = character.codePointAt(0) as number;
    return (code * 31 + i * 17 + last * 7 + before.length) % 1000;
  });
}

const logprob = (context: string, continuation: string) =>
  values(context, continuation).reduce((sum, v) => sum - (1 + v / 250), 0);
const isGreedy = (context: string, continuation: string) =>
  values(context, continuation).reduce((sum, v) => sum + v, 0) % 3 === 0;

type Fixture = {
  records: Record<string, unknown[]>;
  shots: number;
  requests: string[][][];
  scored: string[][];
  results: Record<string, number | string>;
  version: number;
};

const byText = (a: readonly string[], b: readonly string[]) => {
  const [x, y] = [JSON.stringify(a), JSON.stringify(b)];
  return x < y ? -1 : x > y ? 1 : 0;
};

describe.each(Object.entries(harness.tasks as unknown as Record<string, Fixture>))(
  "%s",
  (name, { records, shots, requests, scored, results, version }) => {
    it("asks and scores what the harness does", async () => {
      const { replies, joined, maxLength } = harness;
      let given = 0;
      const model = new FakeModel({
        ...{ logprob, isGreedy, joined },
        maxLength: name === "gsm8k" ? 10_000 : maxLength,
        answers: () => [replies[given++ % replies.length] as string],
      });
      const asked: (readonly (readonly string[])[])[] = [];
      const task = taskOf(name);
      const found = await evaluate({
        tasks: [task],
        model,
        source: listSource({ [name]: records }),
        numFewShot: shots,
        parallel: 1,
        onSample: ({ index, answer }) => (asked[index] = answer.requests),
      });
      expect(asked).toEqual(requests);
      expect(model.scored.toSorted(byText)).toEqual(scored.toSorted(byText));
      for (const [key, value] of Object.entries(results)) {
        if (key === "perplexity_stderr,none") continue; // bootstrapped there
        const own = found.results[name]?.[key];
        if (typeof value === "number") expect(own, key).toBeCloseTo(value, 9);
        else expect(own, key).toBe(value);
      }
      expect(found.versions[name]).toBe(version);
      expect(found["n-shot"][name]).toBe(task.fewShot ? shots : 0);
    });
  },
);
