import { forward, initParams } from "@dsv3/model";
import { disposeTree, key, tensor } from "@dsv3/tensor";
import OpenAI from "openai";
import { expect, test } from "vitest";
import { config, post, tiny, tokenizer } from "./testing/tiny.ts";

const make = tiny();
const path = "/v1/embeddings";
const base = { model: "tiny", input: "some words" };

// biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
const json = async (response: Response): Promise<any> => response.json();
const ids = (text: string) => Array.from(tokenizer.encode(text, { addSpecial: true }));
const norm = (vector: readonly number[]) => Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));

/** By the definition, in float64, from the states of a text alone. */
async function defined(text: string, pooling: "mean" | "last"): Promise<number[]> {
  const params = initParams(config, key(3));
  const tokens = ids(text);
  const result = forward(params, tensor([tokens], { dtype: "i32" }), config);
  const states = await result.hiddenStates.at(-1)!.data();
  disposeTree(params);
  const width = config.hiddenSize;
  const from = pooling === "last" ? tokens.length - 1 : 0;
  const sums = Array.from({ length: width }, (_, i) => {
    let sum = 0;
    for (let t = from; t < tokens.length; t++) sum += states[t * width + i]!;
    return sum;
  });
  return sums.map((x) => x / norm(sums));
}

test.each(["mean", "last"] as const)(
  "a text is its last hidden states, pooled: %s",
  async (pooling) => {
    const { app } = make({}, { pooling });
    const { data, usage } = await json(await post(app, path, base));
    const expected = await defined("some words", pooling);
    const embedding: number[] = data[0].embedding;
    expect(embedding).toHaveLength(config.hiddenSize);
    for (const [i, x] of embedding.entries()) expect(x).toBeCloseTo(expected[i]!, 5);
    const length = ids("some words").length;
    expect(usage).toEqual({ prompt_tokens: length, total_tokens: length });
  },
);

test("OpenAI's client gets the same vectors from texts, ids and both encodings", async () => {
  const { app } = make();
  const fetch = async (url: unknown, init?: RequestInit) =>
    app.fetch(new Request(url as string, init));
  const client = new OpenAI({ baseURL: "http://server/v1", apiKey: "x", maxRetries: 0, fetch });
  const texts = ["some words", "more ".repeat(40), "some words"];
  const create = async (input: string | string[] | number[] | number[][], more: object = {}) =>
    (await client.embeddings.create({ model: "tiny", input, ...more })).data;
  const decoded = await create(texts); // the client asks for base64 and decodes it
  const floats = await create(texts, { encoding_format: "float" });
  const byIds = await create(texts.map(ids));
  expect(floats.map(({ index }) => index)).toEqual([0, 1, 2]);
  for (const i of [0, 1, 2]) {
    expect(norm(floats[i]!.embedding)).toBeCloseTo(1, 5);
    expect(byIds[i]!.embedding).toEqual(decoded[i]!.embedding);
    expect(Array.from(decoded[i]!.embedding)).toEqual(floats[i]!.embedding);
  }
  // A text's vector does not depend on its neighbours, to the last bit.
  expect(floats[2]!.embedding).toEqual(floats[0]!.embedding);
  expect((await create(texts[1]!))[0]!.embedding).toEqual(decoded[1]!.embedding);
  expect((await create(ids(texts[0]!)))[0]!.embedding).toEqual(decoded[0]!.embedding);

  const short = (await create(texts[0]!, { dimensions: 8, encoding_format: "float" }))[0]!;
  const first = floats[0]!.embedding.slice(0, 8);
  expect(short.embedding).toHaveLength(8);
  for (const [i, x] of short.embedding.entries()) expect(x).toBeCloseTo(first[i]! / norm(first), 5);
});

test.each<[string, object, string]>([
  ["an empty text", { input: "" }, "input.0: is empty"],
  ["no text", { input: [] }, "input"],
  ["an empty one among others", { input: ["x", ""] }, "input.1: is empty"],
  ["a token that is none", { input: [[5], [99999]] }, "input.1: token 99999 is not in the vocab"],
  ["a token below 0", { input: [-1] }, "input"],
  ["texts and tokens mixed", { input: ["x", 5] }, "input"],
  ["more than the context", { input: [Array(513).fill(5)] }, "more than the context of 512"],
  ["too many", { input: Array(2049).fill("x") }, "input"],
  ["no dimension", { dimensions: 0 }, "dimensions"],
  ["more dimensions than there are", { dimensions: 4096 }, "dimensions: 4096 is more than the"],
  ["an unknown encoding", { encoding_format: "int8" }, "encoding_format"],
])("%s is refused", async (_, more, message) => {
  const { app } = make();
  const response = await post(app, path, { ...base, ...more });
  const { error } = await json(response);
  expect([response.status, error.message]).toEqual([400, expect.stringContaining(message)]);
});

test("texts that wait have a bound, and leave with their client", async () => {
  const { app } = make({ timeout: 5 }, { maxQueued: 40 });
  expect((await post(app, path, { ...base, input: Array(41).fill("x") })).status).toBe(429);
  const long = Array(40).fill("some words ".repeat(40));
  expect((await post(app, path, { ...base, input: long })).status).toBe(503);
  const next = await post(make().app, path, base);
  expect(next.status).toBe(200);
});
