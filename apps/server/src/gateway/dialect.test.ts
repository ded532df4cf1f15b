import { expect, test } from "vitest";
import { answerFrom, type Json, requestFor, usageFrom } from "./dialect.ts";

const messages = [{ role: "user", content: "hi" }];

test("the longest answer goes by the name that all engines know, unknown fields as they are", () => {
  const body = { model: "m", messages, max_completion_tokens: 5, stop: [], min_tokens: 2 };
  for (const kind of ["vllm", "sglang", "dsv3", "other"] as const) {
    expect(requestFor(kind, body)).toEqual({ model: "m", messages, max_tokens: 5, min_tokens: 2 });
  }
  expect(body.max_completion_tokens).toBe(5);
});

test("usage is asked for in streams alone", () => {
  const options = { stream_options: { include_usage: false, continuous_usage_stats: true } };
  expect(requestFor("vllm", { messages, stream: true, ...options })).toMatchObject({
    stream_options: { include_usage: true, continuous_usage_stats: true },
  });
  expect(requestFor("vllm", { messages, ...options })).toEqual({ messages });
});

test("what binds answers has each engine's name", () => {
  const schema = { type: "object" };
  const vllm = (body: object) => requestFor("vllm", { messages, ...body }).structured_outputs;
  expect(vllm({ guided_json: schema })).toEqual({ json: schema });
  expect(vllm({ guided_json: JSON.stringify(schema) })).toEqual({ json: schema });
  expect(vllm({ guided_choice: ["a", "b"] })).toEqual({ choice: ["a", "b"] });
  expect(vllm({ guided_regex: null, structured_outputs: { regex: "a" } })).toEqual({ regex: "a" });
  expect(vllm({})).toBeUndefined();
  const sglang = (body: Json) => requestFor("sglang", body);
  expect(sglang({ messages, guided_json: schema })).toEqual({
    messages,
    response_format: { type: "json_schema", json_schema: { name: "answer", schema } },
  });
  expect(sglang({ prompt: "x", structured_outputs: { json: schema } })).toEqual({
    prompt: "x",
    json_schema: '{"type":"object"}',
  });
  expect(sglang({ prompt: "x", structured_outputs: { grammar: 'root ::= "a"' } })).toEqual({
    prompt: "x",
    ebnf: 'root ::= "a"',
  });
  const { regex } = sglang({ prompt: "x", guided_choice: ["a.b", "(c", "1-2/3"] });
  const bound = new RegExp(`^${regex}$`);
  expect(["a.b", "(c", "1-2/3", "axb", "c"].map((text) => bound.test(text))).toEqual([
    ...[true, true, true, false, false],
  ]);
  expect(() => sglang({ prompt: "x", structured_outputs: { structural_tag: "{}" } })).toThrow(
    "takes json, regex, choice and grammar",
  );
});

test("DeepSeek's fields of conversations become those of vLLM and SGLang", () => {
  const body = {
    messages: [
      ...messages,
      { role: "assistant", content: "so", reasoning_content: "hm", prefix: true },
    ],
    thinking: { type: "enabled" },
    user_id: "u",
  };
  for (const kind of ["vllm", "sglang"] as const) {
    expect(requestFor(kind, body)).toEqual({
      messages: [
        ...messages,
        { role: "assistant", content: "so", reasoning_content: "hm", reasoning: "hm" },
      ],
      continue_final_message: true,
      add_generation_prompt: false,
      chat_template_kwargs: { thinking: true },
      user_id: "u",
      cache_salt: "u",
    });
  }
  expect(requestFor("dsv3", body)).toEqual(body);
  expect(requestFor("other", body)).toEqual(body);
});

test("thoughts come by DeepSeek's name, whatever the engine calls them", () => {
  const of = (message: object) => answerFrom({ choices: [{ index: 0, message }] }).choices;
  expect(of({ content: "a", reasoning: "b" })).toEqual([
    { index: 0, message: { content: "a", reasoning_content: "b" } },
  ]);
  expect(of({ reasoning: "b", reasoning_content: "b" })).toEqual([
    { index: 0, message: { reasoning_content: "b" } },
  ]);
  expect(of({ content: "a", reasoning: null })).toEqual([{ index: 0, message: { content: "a" } }]);
  expect(answerFrom({ choices: [null, { delta: "x" }] })).toEqual({
    choices: [null, { delta: "x" }],
  });
});

test("the cache's share of tokens has both names, whichever was given", () => {
  const both = {
    prompt_tokens: 10,
    prompt_tokens_details: { cached_tokens: 4 },
    prompt_cache_hit_tokens: 4,
    prompt_cache_miss_tokens: 6,
  };
  expect(usageFrom({ prompt_tokens: 10, prompt_tokens_details: { cached_tokens: 4 } })).toEqual(
    both,
  );
  expect(usageFrom({ prompt_tokens: 10, prompt_cache_hit_tokens: 4 })).toMatchObject(both);
  expect(usageFrom({ prompt_tokens: 10, prompt_tokens_details: null })).toMatchObject({
    prompt_cache_hit_tokens: 0,
    prompt_cache_miss_tokens: 10,
  });
  expect(usageFrom({ prompt_tokens: 1, reasoning_tokens: 3 })).toMatchObject({
    completion_tokens_details: { reasoning_tokens: 3 },
  });
});
