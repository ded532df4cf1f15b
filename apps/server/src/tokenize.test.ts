import { expect, test } from "vitest";
import { post, tiny, tokenizer } from "./testing/tiny.ts";

const make = tiny();

// biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
const json = async (response: Response): Promise<any> => response.json();

test("texts and conversations are counted as they are charged, and come back", async () => {
  const { app } = make();
  const tokenize = async (body: object) => json(await post(app, "/tokenize", body));
  const text = "some words ☕";
  const { tokens, count, max_model_len } = await tokenize({ prompt: text });
  expect(tokens).toEqual(Array.from(tokenizer.encode(text, { addSpecial: true })));
  expect([count, max_model_len]).toEqual([tokens.length, 512]);
  const bare = await tokenize({ prompt: text, add_special_tokens: false });
  expect((await json(await post(app, "/detokenize", bare))).prompt).toBe(text);

  const messages = [{ role: "user", content: text }];
  const chat = await post(app, "/v1/chat/completions", { model: "tiny", messages, max_tokens: 1 });
  expect((await tokenize({ messages })).count).toBe((await json(chat)).usage.prompt_tokens);
});

test.each<[string, object]>([
  ["/tokenize", {}],
  ["/tokenize", { prompt: 5 }],
  ["/tokenize", { messages: [] }],
  ["/detokenize", { tokens: "x" }],
  ["/detokenize", { tokens: [99999] }],
  ["/detokenize", { tokens: [-1] }],
])("%s refuses %j", async (path, body) => {
  const { app } = make();
  expect((await post(app, path, body)).status).toBe(400);
});
