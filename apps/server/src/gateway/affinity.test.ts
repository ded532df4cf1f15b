import { expect, test } from "vitest";
import { inOrder, prefixKey } from "./affinity.ts";

const turn = (role: string, content: string) => ({ role, content });

test("conversations stay one from their first turn on; long prefixes are shared, salts are not", () => {
  const first = [turn("system", "be brief"), turn("user", "hi")];
  const later = [...first, turn("assistant", "hello"), turn("user", "and now?")];
  const key = (messages: unknown, more = {}) => prefixKey({ model: "m", messages, ...more });
  expect(key(later)).toBe(key(first));
  expect(key([first[0], turn("user", "ho")])).not.toBe(key(first));
  const long = turn("system", "x".repeat(5000));
  expect(key([long, turn("user", "a")])).toBe(key([long, turn("user", "b")]));
  expect(key(first, { user_id: "a" })).not.toBe(key(first, { user_id: "b" }));
  expect(key(first, { model: "n" })).not.toBe(key(first));
  expect(key([{ role: "user", content: [{ type: "text", text: "hi" }] }])).toContain("hi");
});

test("Anthropic's and OpenAI's newer conversations have their first turn elsewhere", () => {
  const long = "be brief ".repeat(600);
  const turns = (content: string) => [turn("user", content)];
  const anthropic = (content: string, more = {}) =>
    prefixKey({ system: long, messages: turns(content), ...more });
  expect(anthropic("a")).toBe(anthropic("b"));
  expect(anthropic("a", { metadata: { user_id: "u" } })).not.toBe(anthropic("a"));
  const response = (input: unknown, more = {}) => prefixKey({ model: "m", input, ...more });
  expect(response([...turns("a"), turn("assistant", "b")])).toBe(response(turns("a")));
  expect(response("a", { instructions: long })).toBe(response("b", { instructions: long }));
  expect(response("a", { prompt_cache_key: "u" })).not.toBe(response("a"));
});

test("prompts are compared by their beginning, and anything has a key", () => {
  const key = (prompt: unknown) => prefixKey({ model: "m", prompt });
  const same = "y".repeat(4096);
  expect(key(`${same}a`)).toBe(key(`${same}b`));
  expect(key(Array(9000).fill(7))).toBe(key([...Array(8999).fill(7), 8]));
  expect(key("a")).not.toBe(key("b"));
  expect(key("y".repeat(1e7)).length).toBeLessThan(5000);
  for (const odd of [null, undefined, 5, {}, [null]]) expect(key(odd)).toBe(key(odd));
  expect(prefixKey({ messages: [null, 5, { role: {} }] })).toEqual(expect.any(String));
});

const three = ["a", "b", "c"].map((name) => ({ name, running: 0 }));

test("keys spread evenly, and those of one that goes are all that move", () => {
  const keys = Array.from({ length: 3000 }, (_, i) => `key ${i}`);
  const place = (of: typeof three) => keys.map((key) => inOrder(of, key)[0]!.name);
  const all = place(three);
  for (const { name } of three) {
    // Binomial: 1000 with a deviation of 26.
    const share = all.filter((one) => one === name).length;
    expect(Math.abs(share - 1000)).toBeLessThan(110);
  }
  const without = place(three.slice(0, 2));
  expect(without.filter((name, i) => all[i] !== "c" && name !== all[i])).toEqual([]);
  expect(place(three.toReversed())).toEqual(all);
});

test("who is much busier than the least busy comes last", () => {
  const favourite = inOrder(three, "key")[0]!.name;
  const with_ = (running: number, others: number) =>
    inOrder(
      three.map(({ name }) => ({ name, running: name === favourite ? running : others })),
      "key",
    ).findIndex(({ name }) => name === favourite);
  expect(with_(4, 0)).toBe(0);
  expect(with_(5, 0)).toBe(2);
  expect(with_(129, 100)).toBe(0);
  expect(with_(130, 100)).toBe(2);
  expect(inOrder([], "key")).toEqual([]);
});

test("a prefix that all ask for spreads over all, within the bound", () => {
  const engines = three.map((one) => ({ ...one }));
  for (let i = 0; i < 300; i++) inOrder(engines, "same")[0]!.running++;
  const loads = engines.map(({ running }) => running).toSorted((a, b) => a - b);
  expect(loads[2]).toBeLessThanOrEqual(1.25 * loads[0]! + 5);
});
