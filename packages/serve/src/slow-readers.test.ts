/** Readers that do not read: they cost bounded memory and nobody else anything, and lose nothing. */
import { expect, test } from "vitest";
import { type Delta, type Generation, MAX_UNREAD } from "./generation.ts";
import { engines, prompt } from "./testing/tiny.ts";

const { make } = engines();
const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const LENGTH = 400;
const request = (seed: number) => {
  return { prompt: prompt(70, seed), seed, maxTokens: LENGTH, ignoreEos: true } as const;
};

/** An engine with room for four and as many that wait, and answers that nobody has read after a while. */
async function deafened(count: number) {
  const engine = make({ maxRunning: 4, maxQueued: 4 });
  const deaf: Generation[] = [];
  while (deaf.length < count) {
    const wave = Math.min(4, count - deaf.length);
    for (let i = 0; i < wave; i++) deaf.push(engine.submit(request(deaf.length)));
    const { length } = deaf;
    await expect.poll(() => engine.stats().paused, { timeout: 30_000, interval: 2 }).toBe(length);
  }
  await pause(20);
  return { engine, deaf };
}

const unread = (generations: readonly Generation[]) =>
  generations.map(({ usage }) => usage.completionTokens);

test("however many answers nobody reads, they pause, give others their place, and go on where they were", async () => {
  const { engine, deaf } = await deafened(24);
  expect(unread(deaf)).toEqual(deaf.map(() => MAX_UNREAD));
  // Nothing is held, and nothing is done.
  const before = engine.stats();
  expect(before).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0, preemptions: 0 });
  await pause(20);
  expect(engine.stats()).toEqual(before);

  const { choices } = await engine.generate({ ...request(99), maxTokens: 5 });
  expect(choices[0]!.tokens.length).toBe(5);
  expect(unread(deaf)).toEqual(deaf.map(() => MAX_UNREAD));

  const calm = make();
  const [late] = (await deaf[3]!.collect()).choices;
  expect(late).toEqual((await calm.generate(request(3))).choices[0]);
  expect(deaf[3]!.usage).toMatchObject({ cachedTokens: 0, completionTokens: LENGTH });
  expect(engine.stats().paused).toBe(23);
}, 60_000);

test("an answer goes on once half of what waits is read", async () => {
  const { engine, deaf } = await deafened(1);
  const iterator = deaf[0]![Symbol.asyncIterator]();
  const read = async (count: number) => {
    const deltas: Delta[] = [];
    for (let i = 0; i < count; i++) deltas.push((await iterator.next()).value as Delta);
    await pause(30);
    return deltas;
  };
  await read(MAX_UNREAD / 2 - 1);
  expect(unread(deaf)).toEqual([MAX_UNREAD]);
  await read(1);
  await expect.poll(() => unread(deaf)).toEqual([1.5 * MAX_UNREAD]);
  const rest = await read(LENGTH - MAX_UNREAD / 2);
  expect(rest.at(-1)!.finishReason).toBe("length");
  expect(engine.stats()).toMatchObject({ paused: 0, running: 0 });
}, 60_000);

test("several answers to one prompt wait for their one reader", async () => {
  const engine = make({ maxRunning: 2 });
  const generation = engine.submit({ ...request(1), n: 3 });
  await expect
    .poll(() => engine.stats().paused, { timeout: 30_000, interval: 5 })
    .toBeGreaterThan(0);
  await pause(20);
  expect(unread([generation])[0]).toBeLessThanOrEqual(3 * MAX_UNREAD + 3);
  const { choices } = await generation.collect();
  const calm = await make().generate({ ...request(1), n: 3 });
  expect(choices).toEqual(calm.choices);
}, 60_000);

test("what pauses can be cancelled, and ends with the engine", async () => {
  const { engine, deaf } = await deafened(3);
  const controller = new AbortController();
  const cancelled = engine.submit({ ...request(7), signal: controller.signal });
  await expect.poll(() => engine.stats().paused, { timeout: 30_000, interval: 5 }).toBe(4);
  controller.abort(new Error("too long"));
  await expect(cancelled.collect()).rejects.toThrow("too long");
  for await (const _ of deaf[0]!) break;
  await expect.poll(() => engine.stats().paused).toBe(2);
  await engine.dispose();
  await expect(deaf[1]!.collect()).rejects.toThrow("disposed");
}, 60_000);
