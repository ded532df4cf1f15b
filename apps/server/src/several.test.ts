import { expect, test } from "vitest";
import { createApp } from "./app.ts";
import { Models } from "./models.ts";
import { post, tinyModels } from "./testing/tiny.ts";

const load = tinyModels();

// biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
const json = async (response: Response): Promise<any> => response.json();

test("two models at once answer as each alone, and are counted apart", async () => {
  const source = (name: string) => ({ name, load: async () => load() });
  const app = createApp({ models: new Models([source("org/a"), source("b")]) });
  const complete = async (model: string, seed: number) => {
    const body = { model, prompt: "some words", max_tokens: 12, ignore_eos: true, seed };
    return (await json(await post(app, "/v1/completions", body))).choices[0].text;
  };
  const alone = [await complete("org/a", 1), await complete("b", 2)];
  const together = await Promise.all(
    Array.from({ length: 12 }, (_, i) => (i % 2 ? complete("b", 2) : complete("org/a", 1))),
  );
  expect(together).toEqual(Array.from({ length: 12 }, (_, i) => alone[i % 2]));

  const get = (path: string) => app.fetch(new Request(`http://server${path}`));
  const { data } = await json(await get("/v1/models"));
  expect(data).toMatchObject([
    { id: "org/a", loaded: true, max_model_len: 512 },
    { id: "b", loaded: true },
  ]);
  expect((await json(await get("/v1/models/org/a"))).id).toBe("org/a");
  const metrics = (await (await get("/metrics")).text()).split("\n");
  for (const name of ["org/a", "b"]) {
    expect(metrics).toContain(`vllm:generation_tokens_total{model_name="${name}"} 84`);
    expect(metrics).toContain(`dsv3:model_loaded{model_name="${name}"} 1`);
  }
  expect(metrics.filter((line) => line.startsWith("# TYPE vllm:prompt_tokens_total"))).toHaveLength(
    1,
  );
});

test("where there are several, each request names its own", async () => {
  const models = ["a", "b"].map((name) => ({ name, load: async () => load() }));
  const app = createApp({ models: new Models(models) });
  const unnamed = await post(app, "/tokenize", { prompt: "some" });
  expect(await json(unnamed)).toMatchObject({ error: { param: "model" } });
  expect((await post(app, "/tokenize", { model: "b", prompt: "some" })).status).toBe(200);
  expect((await post(app, "/tokenize", { model: "c", prompt: "some" })).status).toBe(404);
});
