/** Whatever is sent to whatever route, the server does not fail, and comes to an end. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { MODEL_ROUTES } from "./routes.ts";
import { post, tiny } from "./testing/tiny.ts";

const make = tiny();
const RUNS = 2000;
const AT_ONCE = 50;
/** The same in every run, unless given. */
const SEED = Number(process.env.FUZZ_SEED ?? 1);

const messages = [{ role: "user", content: "x" }];
const functions = [{ type: "function", function: { name: "f", parameters: { type: "object" } } }];
const tools = [{ name: "f", input_schema: { type: "object" } }];
/** What makes a request of each route right, before something of it is changed. */
const limits = { max_tokens: 1, max_output_tokens: 1 };
const defaults = { model: "tiny", messages, prompt: "x", input: "x", tokens: [20], ...limits };

const fields = [
  ...[
    "model",
    "messages",
    "prompt",
    "suffix",
    "input",
    "instructions",
    "text",
    "echo",
    "tokens",
    "system",
    "add_special_tokens",
  ],
  ...["n", "stop", "stop_sequences", "seed", "stream", "stream_options", "ignore_eos", "priority"],
  ...["temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"],
  ...["repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "user_id", "cache_salt"],
  ...["max_tokens", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls"],
  ...["response_format", "structured_outputs", "thinking", "chat_template_kwargs", "metadata"],
  ...["encoding_format", "dimensions"],
];
const numbers = [0, 1, -1, 0.5, 2 ** 31, -(2 ** 31), 2 ** 53, 1e308, -1e308, 5e-324];
const shapes = [
  ...["", "x", "auto", "required", "none", true, [], [1], [[1]], {}, { 5: 1 }, { type: "enabled" }],
  ...[messages, functions, tools, { type: "any" }, { type: "json_object" }, { regex: "(" }],
  { type: "json_schema", json_schema: { schema: { type: "integer" } } },
  [{ role: "assistant", content: null, tool_calls: [{ function: { name: "", arguments: "" } }] }],
  [{ role: "user", content: [{ type: "tool_result", tool_use_id: "1" }] }],
  { choice: ["a"] },
  { json: { $ref: "#" } },
];
const value = fc.oneof(
  fc.constantFrom<unknown>(...numbers),
  fc.constantFrom<unknown>(...shapes),
  fc.jsonValue({ maxDepth: 2 }),
);
const body = fc.dictionary(fc.constantFrom(...fields), value, { maxKeys: 4 });

const routes = MODEL_ROUTES.map(({ paths }) => paths[0]);

test("these are all the routes that take a body, but for other paths to them", () => {
  const { app } = make();
  const posts = app.routes.filter(({ method }) => method === "POST").map(({ path }) => path);
  expect(posts.toSorted()).toEqual(MODEL_ROUTES.flatMap(({ paths }) => paths).toSorted());
});

test.each(routes)(
  "%s answers whatever is sent",
  async (path) => {
    const failures: unknown[] = [];
    const { app, engine } = make({
      log: { debug() {}, info() {}, error: (fields) => failures.push(fields) },
    });
    const bodies = fc.sample(body, { numRuns: RUNS, seed: SEED });
    const statuses = new Map<number, number>();
    for (let at = 0; at < RUNS; at += AT_ONCE) {
      const sent = bodies.slice(at, at + AT_ONCE).map(async (changes) => {
        const { status } = await whole(await post(app, path, { ...defaults, ...changes }));
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        if (status >= 500) failures.push(changes);
      });
      await Promise.all(sent);
    }
    expect(failures).toEqual([]);
    // Enough that was right, or little would have been tried behind the first checks.
    expect(statuses.get(200)).toBeGreaterThan(RUNS / 50);
    await expect
      .poll(() => engine.stats())
      .toMatchObject({ running: 0, waiting: 0, usedBlocks: 0 });
  },
  60_000,
);

async function whole(response: Response): Promise<Response> {
  await response.text();
  return response;
}
