import { describe, expect, it } from "vitest";
import {
  encodePair,
  generateUntil,
  loglikelihood,
  rollingLoglikelihood,
  rollingWindows,
} from "./language-model.ts";
import { FakeModel, type FakeOptions } from "./testing/fake-model.ts";

/** The texts of which the tokens of a pair are; ^ is where texts begin. */
async function pairOf(context: string, continuation: string, options: FakeOptions = {}) {
  const model = new FakeModel(options);
  await loglikelihood(model, context, continuation);
  return model.scored[0];
}

describe("encodePair", () => {
  it.each([
    ["Answer:", " yes", ["^Answer:", " yes"]],
    // Whitespace at the context's end, of any kind, is scored with the continuation.
    ["Answer:  ", "yes", ["^Answer:", "  yes"]],
    ["one\n\n", "two", ["^one", "\n\ntwo"]],
    ["one\u00a0", "two", ["^one", "\u00a0two"]],
    ["one\ufeff", "two", ["^one\ufeff", "two"]],
    // Nothing before: the token that texts begin with is the context.
    ["", "text", ["^", "text"]],
    ["  ", "text", ["^", "  text"]],
  ])("%j before %j", async (context, continuation, expected) => {
    expect(await pairOf(context, continuation)).toEqual(expected);
  });

  it("leaves out what a token over the border has of the continuation", async () => {
    const joined = [": y"];
    // Alone: ^ A : — three tokens. Together: ^ A [: y] e s — what comes after three is scored.
    expect(await pairOf("A:", " yes", { joined })).toEqual(["^A:", "es"]);
    await expect(pairOf("A:", " y", { joined })).rejects.toThrow(RangeError);
  });

  it("takes a first token that is the prefix itself as the context", () => {
    const model = new FakeModel();
    model.encode = (_, special) => (special ? [0, 0, 9] : [0, 9]);
    expect(encodePair(model, "", "?")).toEqual({ context: [0], continuation: [9] });
  });
});

describe("loglikelihood", () => {
  it("cuts the context from the left, to one token more than the model reads", async () => {
    // 5 tokens are read, the last one is predicted only.
    const options = { maxLength: 5 };
    expect(await pairOf("abcdef", "xyz", options)).toEqual(["def", "xyz"]);
    expect(await pairOf("ab", "xyz", options)).toEqual(["^ab", "xyz"]);
    expect(await pairOf("abcdef", "vwxyz", options)).toEqual(["f", "vwxyz"]);
  });

  it("refuses a continuation without tokens, and one longer than the context", async () => {
    const model = new FakeModel({ maxLength: 3 });
    await expect(loglikelihood(model, "a", "")).rejects.toThrow("adds no token");
    await expect(loglikelihood(model, "", "")).rejects.toThrow(RangeError);
    await expect(loglikelihood(model, "a", "bcde")).rejects.toThrow(
      "a continuation of 4 tokens is longer than the context of 3",
    );
  });
});

describe("rolling", () => {
  // By hand from get_rolling_token_windows and make_disjoint_window (lm_eval/utils.py).
  it("predicts every token once, in windows of the model's length, the last with as much context as fits", () => {
    const tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    expect(rollingWindows(tokens, 0, 4)).toEqual([
      { context: [0], continuation: [1, 2, 3, 4] },
      { context: [4], continuation: [5, 6, 7, 8] },
      { context: [6, 7, 8], continuation: [9, 10] },
    ]);
    expect(rollingWindows([1, 2], 0, 4)).toEqual([{ context: [0], continuation: [1, 2] }]);
    expect(rollingWindows(tokens.slice(0, 8), 0, 4).at(-1)).toEqual({
      context: [4],
      continuation: [5, 6, 7, 8],
    });
    expect(rollingWindows([], 0, 4)).toEqual([]);
  });

  it("adds the windows up, and never predicts the token that texts begin with", async () => {
    const model = new FakeModel({ maxLength: 3 });
    expect(await rollingLoglikelihood(model, "abcdefg")).toBe(-7);
    expect(model.scored).toEqual([
      ["^", "abc"],
      ["c", "def"],
      ["def", "g"],
    ]);
    expect(await rollingLoglikelihood(model, "")).toBe(0);
  });
});

describe("generateUntil", () => {
  it("cuts the prompt from the left to leave room for the answer", async () => {
    const model = new FakeModel({ maxLength: 6 });
    const prompt = model.encode("abcdef", true);
    await generateUntil(model, prompt, { until: [], maxTokens: 4 });
    expect(model.prompts).toEqual(["ef"]);
    await expect(generateUntil(model, prompt, { until: [], maxTokens: 6 })).rejects.toThrow(
      "an answer of 6 tokens leaves no room in the context of 6",
    );
  });
});
