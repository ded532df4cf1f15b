import { generate } from "@dsv3/model";
import { expect, test } from "vitest";
import type { Engine } from "./engine.ts";
import { type GenerationRequest, QueueFullError, RequestError } from "./request.ts";
import { config, engines, prompt, tokenizer } from "./testing/tiny.ts";

const { params, make } = engines();

const tokens = async (engine: Engine, request: GenerationRequest) =>
  (await engine.generate(request)).choices.map((choice) => choice.tokens);

/** Requests of every kind of sampling, seeded. */
const mixed: GenerationRequest[] = [
  { prompt: prompt(5, 1), maxTokens: 20, seed: 1 },
  { prompt: prompt(70, 2), maxTokens: 30, seed: 2, temperature: 0 },
  { prompt: prompt(130, 3), maxTokens: 25, seed: 3, temperature: 0.7, topK: 12 },
  { prompt: prompt(9, 4), maxTokens: 40, seed: 4, topP: 0.8, frequencyPenalty: 0.5 },
  { prompt: prompt(64, 5), maxTokens: 70, seed: 5, minP: 0.02, repetitionPenalty: 1.2 },
  { prompt: prompt(3, 6), maxTokens: 30, seed: 6, n: 3, presencePenalty: 1 },
  { prompt: prompt(33, 7), maxTokens: 12, seed: 7, logitBias: new Map([[65, 5]]) },
].map((request) => ({ ...request, ignoreEos: true }));

test("greedy answers are those of plain generation", async () => {
  const engine = make();
  const prompts = [prompt(3), prompt(64, 1), prompt(200, 2)];
  const expected = await generate(params(), config, prompts, { maxNewTokens: 12, stopIds: [] });
  const actual = await Promise.all(
    prompts.map((prompt) =>
      engine.generate({ prompt, maxTokens: 12, temperature: 0, ignoreEos: true }),
    ),
  );
  expect(actual.map(({ choices }) => choices[0]!.tokens)).toEqual(expected);
  expect(actual.map(({ choices }) => choices[0]!.finishReason)).toEqual([
    "length",
    "length",
    "length",
  ]);
  expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0 });
});

test("the same seed gives the same tokens and log-probabilities, whatever happens around them", async () => {
  const exact = async (engine: Engine, together: boolean) => {
    const answers = [];
    if (together) answers.push(...(await Promise.all(mixed.map((r) => engine.generate(r)))));
    else for (const request of mixed) answers.push(await engine.generate(request));
    return answers.map(({ choices }) =>
      choices.map(({ drawn }) => drawn.map(({ token, logprob }) => [token, logprob])),
    );
  };
  const alone = await exact(make(), false);
  expect(new Set(alone.flat().map(String)).size).toBe(9); // n > 1 draws differently, too

  const batch = make();
  expect(await exact(batch, true)).toEqual(alone);
  // A second time, prompts are found in the cache.
  expect(batch.stats().prefixHits).toBe(0);
  expect(await exact(batch, true)).toEqual(alone);
  expect(batch.stats().prefixHits).toBe(64 + 128);

  const chunked = make({ maxPrefill: 24 });
  expect(await exact(chunked, true)).toEqual(alone);

  const ahead = make({ speculate: true, drafts: 2, maxPrefill: 40 });
  expect(await exact(ahead, true)).toEqual(alone);
  expect(await exact(ahead, true)).toEqual(alone); // with prefix hits
  expect(ahead.stats().drafts).toBeGreaterThan(200);

  const starved = make({ maxContext: 192, cacheTokens: 192 });
  expect(await exact(starved, true)).toEqual(alone);
  expect(starved.stats().preemptions).toBeGreaterThan(0);
  expect(starved.stats().usedBlocks).toBe(0);
}, 60_000);

test("answers to one prompt share its blocks", async () => {
  const engine = make();
  const { usage } = await engine.generate({
    prompt: prompt(200),
    maxTokens: 3,
    n: 4,
    temperature: 0,
  });
  expect(engine.stats().prefixHits).toBe(3 * 192);
  expect(usage).toMatchObject({ promptTokens: 200, cachedTokens: 0 });
  const again = await engine.generate({ prompt: prompt(200), maxTokens: 1 });
  expect(again.usage).toEqual({ promptTokens: 200, cachedTokens: 192, completionTokens: 1 });
});

test("prefixes are shared within a salt alone, and an answer is a prefix, too", async () => {
  const engine = make();
  const cached = async (request: Partial<GenerationRequest>) =>
    (await engine.generate({ prompt: prompt(130), maxTokens: 1, ...request })).usage.cachedTokens;
  expect(await cached({ cacheSalt: "ann" })).toBe(0);
  expect(await cached({ cacheSalt: "bob" })).toBe(0);
  expect(await cached({})).toBe(0);
  expect(await cached({ cacheSalt: "ann" })).toBe(128);
  const first = await engine.generate({
    prompt: prompt(60),
    maxTokens: 80,
    ignoreEos: true,
    seed: 1,
  });
  const all = [...prompt(60), ...first.choices[0]!.tokens];
  expect(await cached({ prompt: [...all, 5] })).toBe(128);
});

test("log-probabilities are those of the model, most likely first", async () => {
  const engine = make();
  const request = {
    prompt: prompt(10),
    maxTokens: 4,
    logprobs: 5,
    seed: 3,
    logitBias: new Map([[7, 100]]),
  };
  const [choice] = (await engine.generate(request)).choices;
  for (const { token, logprob, top } of choice!.drawn) {
    expect(token).toBe(7); // the bias decides, the log-probability does not know of it
    expect(logprob).toBeLessThan(-1);
    expect(top).toHaveLength(5);
    const sorted = top.map((t) => t.logprob).toSorted((a, b) => b - a);
    expect(top.map((t) => t.logprob)).toEqual(sorted);
    expect(top.reduce((sum, t) => sum + Math.exp(t.logprob), 0)).toBeLessThan(1);
  }
  const [greedy] = (await engine.generate({ ...request, temperature: 0, logitBias: new Map() }))
    .choices;
  for (const { token, logprob, top } of greedy!.drawn) {
    expect(top[0]).toEqual({ token, logprob });
  }
});

test("an answer ends at stop ids, stop strings over token borders, and the context's end", async () => {
  const engine = make({ maxContext: 128 });
  const base = { prompt: prompt(20), seed: 11, maxTokens: 40, ignoreEos: true };
  const [whole] = (await engine.generate(base)).choices;
  const known = whole!.tokens.filter((id) => id < tokenizer.vocabSize); // the model has more rows
  expect(whole!.text).toBe(tokenizer.decode(known, { skipSpecial: true }));

  const id = whole!.tokens[9]!;
  const [byId] = (await engine.generate({ ...base, stopIds: [id] })).choices;
  expect(byId!.tokens).toEqual(whole!.tokens.slice(0, whole!.tokens.indexOf(id) + 1));
  expect(byId).toMatchObject({ finishReason: "stop", stopped: id });

  // Three characters in the middle: they lie in two tokens at least, as most tokens are single bytes.
  const stop = whole!.text.slice(12, 15);
  const [byText] = (await engine.generate({ ...base, stop: [stop, "never there"] })).choices;
  expect(byText!.text).toBe(whole!.text.slice(0, whole!.text.indexOf(stop)));
  expect(byText).toMatchObject({ finishReason: "stop", stopped: stop });

  const [toTheEnd] = (await engine.generate({ ...base, maxTokens: undefined as never })).choices;
  expect(toTheEnd!.tokens).toHaveLength(108);
  expect(toTheEnd!.finishReason).toBe("length");
});

test("what streams is what comes whole", async () => {
  const engine = make();
  const request = { prompt: prompt(12), n: 2, maxTokens: 20, seed: 5 };
  const { choices } = await engine.generate(request);
  const texts = ["", ""];
  for await (const { choice, text } of engine.submit(request)) texts[choice] += text;
  expect(texts).toEqual(choices.map(({ text }) => text));
});

test("a cancelled request frees its blocks within a step, and its reader learns why", async () => {
  const engine = make();
  const controller = new AbortController();
  const kept = engine.generate({ prompt: prompt(30), maxTokens: 30, seed: 1, ignoreEos: true });
  const generation = engine.submit({
    prompt: prompt(100),
    signal: controller.signal,
    ignoreEos: true,
  });
  let seen = 0;
  const reading = (async () => {
    for await (const _ of generation) if (++seen === 3) controller.abort(new Error("gone"));
  })();
  await expect(reading).rejects.toThrow("gone");
  const { steps } = engine.stats();
  while (engine.stats().steps < steps + 1) await new Promise((resolve) => setTimeout(resolve));
  expect(engine.stats()).toMatchObject({ running: 1, usedBlocks: 1 });
  expect((await kept).choices[0]!.tokens).toHaveLength(30);
  expect(engine.stats().usedBlocks).toBe(0);
  expect(() => engine.submit({ prompt: [1], signal: controller.signal })).toThrow("gone");
});

test("leaving the loop cancels, and a deadline is a signal", async () => {
  const engine = make();
  for await (const _ of engine.submit({ prompt: prompt(5), ignoreEos: true })) break;
  const late = engine.generate({
    prompt: prompt(5),
    ignoreEos: true,
    signal: AbortSignal.timeout(20),
  });
  await expect(late).rejects.toThrow(/timeout/);
  await expect.poll(() => engine.stats()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0 });
});

test("200 cancelled requests leave no block in use, and the next one is answered", async () => {
  const engine = make({ maxRunning: 8 });
  const storm = Array.from({ length: 200 }, (_, i) =>
    engine
      .generate({
        prompt: prompt(20 + (i % 60), i),
        ignoreEos: true,
        signal: AbortSignal.timeout(100),
      })
      .then(
        () => "answered",
        () => "cancelled",
      ),
  );
  expect(new Set(await Promise.all(storm))).toEqual(new Set(["cancelled"]));
  expect((await tokens(engine, { prompt: [1], maxTokens: 3, ignoreEos: true }))[0]).toHaveLength(3);
  expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0 });
}, 30_000);

test("the queue is bounded, and the more urgent come first", async () => {
  const engine = make({ maxRunning: 1, maxQueued: 3 });
  const order: string[] = [];
  const ask = (name: string, priority = 0) =>
    tokens(engine, { prompt: prompt(4), maxTokens: 4, priority, ignoreEos: true }).then(() =>
      order.push(name),
    );
  const first = ask("first");
  const second = ask("second");
  const urgent = ask("urgent", -1);
  await expect(ask("fourth")).rejects.toThrow(QueueFullError);
  expect(() => engine.submit({ prompt: [1], n: 2 })).toThrow("holds 3 answers");
  await Promise.all([first, second, urgent]);
  expect(order).toEqual(["urgent", "first", "second"]);
});

test("the more urgent take the place of others, which go on later as if nothing had been", async () => {
  const slow = { prompt: prompt(70), maxTokens: 60, seed: 1, priority: 1, ignoreEos: true };
  const [alone] = await tokens(make(), slow);
  for (const cramped of [{ maxRunning: 1 }, { maxContext: 192, cacheTokens: 192 }]) {
    const engine = make(cramped);
    const order: string[] = [];
    const generation = engine.submit(slow);
    let urgent: Promise<unknown> | undefined;
    const ask = (name: string, priority: number) =>
      tokens(engine, { prompt: prompt(100, 1), maxTokens: 20, priority, ignoreEos: true }).then(
        () => order.push(name),
      );
    const made: number[] = [];
    for await (const { token } of generation) {
      made.push(token);
      if (made.length === 5) urgent = Promise.all([ask("same", 1), ask("urgent", 0)]);
    }
    order.push("slow");
    await urgent;
    expect(order).toEqual(["urgent", "slow", "same"]);
    expect(made).toEqual(alone);
    expect(engine.stats().preemptions).toBe(1);
  }
});

test.each<[string, Partial<GenerationRequest>, string]>([
  ["an empty prompt", { prompt: [] }, "prompt: is empty"],
  ["an id outside the vocabulary", { prompt: [1, 320] }, "token 1 is 320"],
  ["a fraction for an id", { prompt: [1.5] }, "token 0 is 1.5"],
  ["more than the context", { maxTokens: 512 }, "more than the context of 512"],
  ["n beyond all bounds", { n: 2 ** 31 }, "n: 2147483648 is not a whole number from 1 to 128"],
  ["n below 1", { n: -1 }, "n: -1"],
  ["no number", { temperature: Number.NaN }, "temperature: NaN"],
  ["a negative temperature", { temperature: -1 }, "temperature: -1"],
  ["topP of 0", { topP: 0 }, "topP: 0"],
  ["topK of 0", { topK: 0 }, "topK: 0"],
  ["half a token", { maxTokens: 0.5 }, "maxTokens: 0.5"],
  ["an infinite seed", { seed: Number.POSITIVE_INFINITY }, "seed: Infinity"],
  ["a bias on no token", { logitBias: new Map([[320, 1]]) }, "logitBias: token 0 is 320"],
  ["a boundless bias", { logitBias: new Map([[3, 1e9]]) }, "logitBias: 1000000000"],
  ["a stop id outside the vocabulary", { stopIds: [-1] }, "stopIds: token 0 is -1"],
  ["an empty stop", { stop: [""] }, "stop: an empty text"],
  ["too many stops", { stop: Array(65).fill("x") }, "stop: 65 ends"],
  ["a text for a number", { presencePenalty: "1" as never }, "presencePenalty: 1 is not a number"],
])("%s is refused by name", (_, request, message) => {
  const engine = make();
  const submit = () => engine.submit({ prompt: [1], maxTokens: 1, ...request });
  expect(submit).toThrow(RequestError);
  expect(submit).toThrow(message);
});

test("sizes that cannot be are refused", async () => {
  expect(() => make({ maxContext: 1024 })).toThrow("the model's context ends at 512");
  expect(() => make({ cacheTokens: 64 })).toThrow("too few for one context of 512");
  expect(() => make({ maxRunning: 0 })).toThrow("maxRunning must be a whole number from 1, is 0");
  const full = prompt(512);
  expect(() => make().submit({ prompt: full })).toThrow(/512 tokens and 1 new ones/);
});

test("without a tokenizer there are ids alone", async () => {
  const engine = make({ tokenizer: undefined as never });
  const { choices } = await engine.generate({ prompt: [1, 2], maxTokens: 3, ignoreEos: true });
  expect(choices[0]).toMatchObject({ text: "", finishReason: "length" });
  expect(() => engine.submit({ prompt: [1], stop: ["x"] })).toThrow(
    "need an engine with a tokenizer",
  );
});

test("a disposed engine ends its requests with an error", async () => {
  const engine = make();
  const answer = engine.generate({ prompt: [1, 2, 3], ignoreEos: true });
  const failed = expect(answer).rejects.toThrow("the engine was disposed");
  await engine.dispose();
  await failed;
  expect(() => engine.submit({ prompt: [1] })).toThrow("the engine has failed");
});
