import { describe, expect, it } from "vitest";
import { readRecord } from "./record.ts";

const exchange = [
  { role: "user", content: "2 + 2?" },
  { role: "assistant", content: "4" },
];

describe("readRecord", () => {
  it.each([
    ["OpenAI", { messages: exchange }],
    ["prompt and completion", { prompt: "2 + 2?", completion: "4" }],
    ["lists of messages", { prompt: exchange.slice(0, 1), completion: exchange.slice(1) }],
    ["Alpaca", { instruction: "2 + 2?", input: "", output: "4" }],
    [
      "ShareGPT",
      {
        conversations: [
          { from: "human", value: "2 + 2?" },
          { from: "gpt", value: "4" },
        ],
      },
    ],
    [
      "text parts",
      {
        messages: [
          {
            role: "user",
            content: [
              { type: "text", text: "2 + " },
              { type: "text", text: "2?" },
            ],
          },
          exchange[1],
        ],
      },
    ],
  ])("reads a conversation as %s spells it", (_, record) => {
    expect(readRecord(record)).toEqual({ messages: exchange });
    expect(readRecord({ ...record, source: "sums" })).toEqual({
      messages: exchange,
      source: "sums",
    });
  });

  it("joins Alpaca's instruction and input", () => {
    expect(readRecord({ instruction: "Reverse", input: "abc", output: "cba" })).toEqual({
      messages: [
        { role: "user", content: "Reverse\n\nabc" },
        { role: "assistant", content: "cba" },
      ],
    });
  });

  it("reads texts", () => {
    expect(readRecord({ text: "a" })).toEqual({ text: "a" });
    expect(readRecord({ content: "a", source: "b" })).toEqual({ text: "a", source: "b" });
  });

  it("reads tool calls, with arguments as text or parsed", () => {
    const calls = (args: unknown) => ({
      messages: [
        { role: "assistant", tool_calls: [{ function: { name: "sum", arguments: args } }] },
        { role: "tool", content: "4" },
      ],
    });
    const sample = readRecord(calls({ a: 2 })) as { messages: readonly object[] };
    expect(sample.messages[0]).toHaveProperty("tool_calls", [
      { type: "function", function: { name: "sum", arguments: '{"a":2}' } },
    ]);
    expect(readRecord(calls('{"a":2}'))).toEqual(readRecord(calls({ a: 2 })));
  });

  it.each([
    [null, "expected an object, found null"],
    [[], "found a list"],
    ["x", "found a string"],
    [{}, "found no fields"],
    [{ body: "x" }, "found body"],
    [{ text: 1 }, "text: expected a text, found a number"],
    [{ messages: "x" }, "messages: expected a list"],
    [{ messages: [] }, "messages: the list is empty"],
    [{ messages: [1] }, "messages[0]: expected an object"],
    [{ messages: [{ role: "wizard", content: "x" }] }, 'messages[0]: unknown role "wizard"'],
    [{ messages: [{ role: "constructor", content: "x" }] }, "unknown role"],
    [{ messages: [exchange[0], { role: "assistant" }] }, "messages[1].content: expected a text"],
    [{ messages: [{ role: "user", content: [{ type: "image_url" }] }] }, "content[0]: only parts"],
    [{ prompt: "x" }, "completion: expected a text, found nothing"],
    [{ instruction: "x" }, "output: expected a text"],
    [
      {
        messages: [{ role: "assistant", tool_calls: [{ function: { name: "f", arguments: 3 } }] }],
      },
      "tool_calls[0].function.arguments: expected a text, found a number",
    ],
  ])("refuses %j", (record, message) => {
    expect(() => readRecord(record)).toThrow(TypeError);
    expect(() => readRecord(record)).toThrow(message);
  });
});
