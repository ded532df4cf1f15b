import type { Engine } from "@dsv3/serve";
import { expect, test, vi } from "vitest";
import { createApp } from "./app.ts";
import { type LoadedModel, type ModelState, Models, type ModelsOptions } from "./models.ts";

/** Models without weights, and a diary of what becomes of them. */
function fakes(names: string[], limits: ModelsOptions, bytes = 10) {
  const diary: string[] = [];
  const engines = new Map<string, { failure: Error | null }>();
  const gates = new Map<string, Promise<void>>();
  const failing = new Set<string>();
  const sources = names.map((name) => ({
    name,
    bytes,
    async load(): Promise<LoadedModel> {
      diary.push(`load ${name}`);
      await gates.get(name);
      if (failing.has(name)) throw new Error(`${name} is broken`);
      const engine = { failure: null, maxContext: 7, stats: () => ({ promptTokens: 5 }) };
      engines.set(name, engine);
      const dispose = async () => void diary.push(`unload ${name}`);
      return { engine: engine as unknown as Engine, dispose } as LoadedModel;
    },
  }));
  return { models: new Models(sources, limits), diary, engines, gates, failing };
}

test("a model is loaded when first asked for, once for all who ask at that time", async () => {
  const { models, diary } = fakes(["a", "b"], {});
  expect(models.list().map(({ loaded }) => loaded)).toEqual([false, false]);
  const leases = await Promise.all(Array.from({ length: 50 }, () => models.acquire("a")));
  expect(diary).toEqual(["load a"]);
  expect(new Set(leases.map(({ model }) => model)).size).toBe(1);
  expect(models.list()).toMatchObject([
    { name: "a", loaded: true, maxContext: 7 },
    { name: "b", loaded: false, maxContext: null, stats: null },
  ]);
  await models.dispose();
  expect(diary).toEqual(["load a", "unload a"]);
  await expect(models.acquire("a")).rejects.toThrow("disposed");
});

test.each<[string, ModelsOptions]>([
  ["number", { maxLoaded: 2 }],
  ["bytes", { maxBytes: 25 }],
])("where there is no room, the one not used for longest goes: by %s", async (_, limits) => {
  const { models, diary } = fakes(["a", "b", "c"], limits);
  for (const name of ["a", "b", "a", "c"]) (await models.acquire(name)).release();
  expect(diary).toEqual(["load a", "load b", "unload b", "load c"]);
});

test("a model larger than all the room is loaded alone", async () => {
  const { models, diary } = fakes(["a", "b"], { maxBytes: 5 });
  for (const name of ["a", "b"]) (await models.acquire(name)).release();
  expect(diary).toEqual(["load a", "unload a", "load b"]);
});

test("a model at work is waited for, and nobody can keep it from leaving", async () => {
  const { models, diary } = fakes(["a", "b"], { maxLoaded: 1 });
  const first = await models.acquire("a");
  const other = models.acquire("b");
  await vi.waitFor(() => expect(models.list()[0]!.loaded).toBe(true));
  await new Promise(setImmediate);
  const late = models.acquire("a"); // comes while a leaves
  await new Promise(setImmediate);
  expect(diary).toEqual(["load a"]);
  first.release();
  first.release(); // counts once
  (await other).release();
  (await late).release();
  expect(diary).toEqual(["load a", "unload a", "load b", "unload b", "load a"]);
});

test("a model that nobody uses is unloaded after a while, and its counts stay", async () => {
  vi.useFakeTimers();
  try {
    const { models, diary } = fakes(["a"], { idleTimeout: 1000 });
    (await models.acquire("a")).release();
    await vi.advanceTimersByTimeAsync(900);
    const lease = await models.acquire("a");
    await vi.advanceTimersByTimeAsync(5000);
    expect(diary).toEqual(["load a"]);
    lease.release();
    await vi.advanceTimersByTimeAsync(1000);
    expect(diary).toEqual(["load a", "unload a"]);
    await models.acquire("a");
    const [{ metrics, stats }] = models.list() as [ModelState];
    expect(metrics.count("promptTokens", stats)).toBe(10);
  } finally {
    vi.useRealTimers();
  }
});

test("a load that failed is told to all who wait, and tried again after a while", async () => {
  vi.useFakeTimers();
  try {
    const { models, diary, failing } = fakes(["a", "b"], {});
    failing.add("a");
    const asked = () => Promise.allSettled([models.acquire("a"), models.acquire("a")]);
    const failed = { status: 503, code: "model_load_failed", cause: { message: "a is broken" } };
    const rejected = { status: "rejected", reason: failed };
    expect(await asked()).toMatchObject([rejected, rejected]);
    expect(await asked()).toMatchObject([rejected, rejected]);
    expect(diary).toEqual(["load a"]);
    (await models.acquire("b")).release();
    failing.clear();
    await vi.advanceTimersByTimeAsync(5000);
    expect(await asked()).toMatchObject([{ status: "fulfilled" }, { status: "fulfilled" }]);
  } finally {
    vi.useRealTimers();
  }
});

test("an engine that has failed is replaced", async () => {
  const { models, diary, engines } = fakes(["a"], {});
  const broken = await models.acquire("a");
  engines.get("a")!.failure = new Error("out of memory");
  const [one, two] = await Promise.all([models.acquire("a"), models.acquire("a")]);
  expect(one.model).toBe(two.model);
  expect(one.model).not.toBe(broken.model);
  expect(diary).toEqual(["load a", "unload a", "load a"]);
});

test("who waits can give up, and too many cannot wait", async () => {
  const { models, gates, diary } = fakes(["a"], { maxWaiting: 2 });
  const { promise, resolve } = Promise.withResolvers<void>();
  gates.set("a", promise);
  const controller = new AbortController();
  const patient = models.acquire("a");
  const impatient = models.acquire("a", controller.signal);
  await expect(models.acquire("a")).rejects.toMatchObject({ status: 429 });
  controller.abort(new Error("gave up"));
  await expect(impatient).rejects.toThrow("gave up");
  resolve();
  (await patient).release();
  expect(diary).toEqual(["load a"]);
});

test("what fails with nobody waiting is no failure of the process", async () => {
  const { models, failing, diary } = fakes(["a"], { maxWaiting: 1 });
  failing.add("a");
  await expect(models.acquire("a", AbortSignal.abort(new Error("gone")))).rejects.toThrow("gone");
  await new Promise(setImmediate);
  expect(diary).toEqual(["load a"]);
});

test("names must differ, and be there", async () => {
  expect(() => createApp({ models: new Models([]) })).toThrow("one at least");
  expect(() => fakes(["a", "a"], {})).toThrow('two are called "a"');
  const { models } = fakes(["a", "b"], {});
  const missing = { status: 404, message: expect.stringContaining('there is "a", "b"') };
  await expect(models.acquire("constructor")).rejects.toMatchObject(missing);
});
