import { expect, test } from "vitest";
import type { GenerationRequest } from "./request.ts";
import { engines, prompt } from "./testing/tiny.ts";

const { make } = engines();

async function scores(engine: ReturnType<typeof make>, request: GenerationRequest) {
  const generation = engine.submit(request);
  await generation.collect();
  return generation.promptLogprobs;
}

test("a prompt's log-probabilities are those that its tokens had when they were drawn", async () => {
  const engine = make();
  const start = prompt(5);
  const drawn = { prompt: start, maxTokens: 90, seed: 3, logprobs: 3, ignoreEos: true };
  const [answer] = (await engine.generate(drawn)).choices;
  const whole = [...start, ...answer!.tokens];
  const request = { prompt: whole, maxTokens: 1, promptLogprobs: 3 };
  const scored = (await scores(engine, request))!;
  expect(scored).toHaveLength(whole.length);
  expect(scored[0]).toBeNull();
  // To the last bit: prefill and decode give a row the same logits.
  expect(scored.slice(start.length)).toEqual(answer!.drawn);
  expect(await scores(engine, { prompt: whole, maxTokens: 1 })).toBeNull();
  const none = (await scores(engine, { ...request, promptLogprobs: 0 }))!;
  expect(none.slice(1)).toEqual(scored.slice(1).map((one) => ({ ...one, top: [] })));
});

test("they are the same in pieces, past a cached prefix, beside others, and after preemption", async () => {
  const request = { prompt: prompt(150), maxTokens: 2, promptLogprobs: 1, seed: 1 };
  const expected = await scores(make(), request);
  expect(expected!.slice(1).every((one) => one!.logprob < 0)).toBe(true);
  const pieces = make({ maxPrefill: 33 });
  expect(await scores(pieces, request)).toEqual(expected);
  expect(await scores(pieces, { ...request, n: 2 })).toEqual(expected);
  const tight = make({ maxContext: 512, cacheTokens: 512, maxRunning: 4, speculate: false });
  const others = [1, 2, 3].map((salt) =>
    tight.generate({ prompt: prompt(100, salt), maxTokens: 120, ignoreEos: true }),
  );
  expect(await scores(tight, request)).toEqual(expected);
  await Promise.all(others);
  const ask = (promptLogprobs: number) => tight.submit({ ...request, promptLogprobs });
  expect(() => ask(21)).toThrow("promptLogprobs: 21");
});

test("from a later token on they are the same, and what comes before is found in the cache", async () => {
  const head = prompt(140);
  const requests = [1, 2, 3].map((salt) => ({
    prompt: [...head, ...prompt(9, salt)],
    maxTokens: 1,
    promptLogprobs: 1,
  }));
  const whole = await Promise.all(requests.map((request) => scores(make(), request)));
  for (const from of [1, 64, 65, 66, 128, 129, 140, 148]) {
    const engine = make();
    const ask = (request: GenerationRequest) =>
      scores(engine, { ...request, promptLogprobsFrom: from });
    const parts = await Promise.all(requests.map(ask));
    expect(parts.map((part) => part!.slice(from))).toEqual(whole.map((all) => all!.slice(from)));
    // The first computes its whole prompt; the others what comes after the full blocks before `from` − 1.
    expect(engine.stats().prefixHits).toBe(2 * 64 * Math.floor((from - 1) / 64));
  }
  const bad = { prompt: head, promptLogprobs: 1, promptLogprobsFrom: 140 } as const;
  expect(() => make().submit(bad)).toThrow("promptLogprobsFrom: 140");
});
