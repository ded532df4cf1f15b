import { expect, test } from "vitest";
import type { EngineOptions } from "./engine.ts";
import type { Format } from "./grammar/grammar.ts";
import type { GenerationRequest } from "./request.ts";
import { engines, prompt, tokenizer } from "./testing/tiny.ts";

const { make } = engines();

const person: Format = {
  type: "schema",
  schema: {
    type: "object",
    properties: {
      name: { type: "string", maxLength: 8 },
      age: { type: "integer" },
      tags: { type: "array", items: { type: "string" } },
    },
    required: ["name", "tags"],
  },
};

const ask = (i: number, format: Format): GenerationRequest => ({
  prompt: prompt(10 + i, i),
  maxTokens: 60,
  seed: i,
  format,
});

test("a model that knows nothing writes JSON that fits", async () => {
  const engine = make();
  const answers = await Promise.all(
    Array.from({ length: 12 }, (_, i) =>
      engine.generate(ask(i, i % 2 ? person : { type: "json" })),
    ),
  );
  for (const [i, { choices }] of answers.entries()) {
    const value = JSON.parse(choices[0]!.text);
    expect(typeof value).toBe("object");
    if (i % 2 === 0) continue;
    expect(value.name.length).toBeLessThanOrEqual(8);
    expect(Array.isArray(value.tags)).toBe(true);
  }
});

test("regular expressions and choices bind every answer, and end it", async () => {
  const engine = make();
  const date = await engine.generate(ask(1, { type: "regex", pattern: "\\d{4}-[01]\\d" }));
  expect(date.choices[0]!.text).toMatch(/^\d{4}-[01]\d$/);
  expect(date.choices[0]!.finishReason).toBe("stop");
  const choices = ["yes", "no", "perhaps"];
  const { choices: answers } = await engine.generate({
    ...ask(2, { type: "choice", choices }),
    n: 8,
  });
  for (const { text } of answers) expect(choices).toContain(text);
  expect(new Set(answers.map(({ text }) => text)).size).toBeGreaterThan(1);
});

test("bound answers are the same in a batch, after preemption, and with speculation", async () => {
  const requests = Array.from({ length: 6 }, (_, i) => ask(i * 9, person));
  const answers = async (options: Partial<EngineOptions>) => {
    const engine = make(options);
    const results = await Promise.all(requests.map((request) => engine.generate(request)));
    return { texts: results.map(({ choices }) => choices[0]!.text), stats: engine.stats() };
  };
  const { texts } = await answers({});
  expect((await answers({ speculate: true, drafts: 2 })).texts).toEqual(texts);
  const cramped = await answers({ maxContext: 128, cacheTokens: 192 });
  expect(cramped.texts).toEqual(texts);
  expect(cramped.stats.preemptions).toBeGreaterThan(0);
});

test("a format that is none is refused by name", () => {
  const engine = make();
  const submit = (format: Format, more = {}) => engine.submit({ ...ask(1, format), ...more });
  expect(() => submit({ type: "regex", pattern: "(" })).toThrow('format: pattern "("');
  expect(() => submit({ type: "schema", schema: { type: "x" } })).toThrow("format: schema, at #");
  expect(() => submit({ type: "choice", choices: [] })).toThrow("nothing to choose from");
  expect(() => submit({ type: "json" }, { ignoreEos: true })).toThrow("leave ignoreEos out");
  const idsAlone = make({ tokenizer: undefined as never });
  expect(() => idsAlone.submit(ask(1, person))).toThrow("need an engine with a tokenizer");
});

test("a call is bound to its function's name and parameters", async () => {
  const engine = make();
  const functions = [
    {
      name: "weather",
      parameters: {
        type: "object",
        properties: { city: { type: "string", maxLength: 5 } },
        required: ["city"],
      },
    },
    { name: "now" },
  ];
  for (let i = 0; i < 6; i++) {
    const { choices } = await engine.generate(ask(i, { type: "call", functions }));
    const [, name, args] = /^(\w+)\n```json\n([\s\S]*)\n```$/.exec(choices[0]!.text)!;
    if (name === "weather") expect(Object.keys(JSON.parse(args!))).toEqual(["city"]);
    else expect([name, typeof JSON.parse(args!)]).toEqual(["now", "object"]);
  }
  expect(() => engine.submit(ask(0, { type: "call", functions: [] }))).toThrow("nothing to call");
});

test("control tokens that are asked for are in the text, others are not", async () => {
  const engine = make();
  const sep = tokenizer.specialId("toolSep");
  const logitBias = new Map([[sep, 100]]);
  const request = { prompt: prompt(5), maxTokens: 2, temperature: 0, logitBias };
  expect((await engine.generate(request)).choices[0]!.text).toBe("");
  const shown = await engine.generate({ ...request, showIds: [sep] });
  expect(shown.choices[0]!.text).toBe("<｜tool▁sep｜><｜tool▁sep｜>");
});
