/** What is broken is refused with its place; nothing is half-read. */
import { describe, expect, test } from "vitest";
import { Tokenizer } from "./tokenizer.ts";
import { trainBpe } from "./train.ts";

const tokenizer = trainBpe(["the cat sat on the mat ".repeat(9)], {
  vocabSize: 270,
  specialTokens: ["<s>", "</s>"],
});

interface Json {
  [field: string]: unknown;
  added_tokens: Record<string, unknown>[];
  pre_tokenizer: unknown;
  model: { [field: string]: unknown; vocab: Record<string, number>; merges: string[][] };
}

/** tokenizer.json, changed. */
function json(change: (json: Json) => void): object {
  const whole = structuredClone(tokenizer.toJSON()) as unknown as Json;
  change(whole);
  return whole;
}
const reading = (input: string | Uint8Array | object) => () => Tokenizer.fromJSON(input);

describe("ids", () => {
  test("outside the vocabulary: the id, its position and the limit", () => {
    for (const id of [270, -1, 1.5, Number.NaN, 2 ** 32]) {
      const message = `id ${id} at position 2 is outside the vocabulary, 0 to 269`;
      expect(() => tokenizer.decode([5, 6, id])).toThrow(message);
    }
    expect(() => tokenizer.tokenBytes(270)).toThrow("id 270 is outside the vocabulary");
  });

  test("a stream that meets one keeps what it had", () => {
    const stream = tokenizer.decoder();
    const [first, ...rest] = tokenizer.encode("é");
    expect(stream.push(first!)).toBe("");
    expect(() => stream.push([...rest, 999])).toThrow("id 999 at position 1");
    expect(stream.push(rest)).toBe("é");
  });

  test("a role that the vocabulary has not", () => {
    expect(() => tokenizer.specialId("fimHole")).toThrow('no token for the role "fimHole"');
  });
});

describe("text", () => {
  test("bytes that are not UTF-8: the byte and its offset", () => {
    const cases: [number[], string][] = [
      [[0x61, 0xff], "byte 0xff at offset 1"],
      [[0x61, 0x62, 0xc3], "byte 0xc3 at offset 2"], // truncated
      [[0xc0, 0x80], "byte 0xc0 at offset 0"], // overlong
      [[0xed, 0xa0, 0x80], "byte 0xed at offset 0"], // half of a surrogate pair
      [[0xf4, 0x90, 0x80, 0x80], "byte 0xf4 at offset 0"], // past U+10FFFF
    ];
    for (const [bytes, message] of cases) {
      expect(() => tokenizer.encode(Uint8Array.from(bytes))).toThrow(message);
      expect(() => tokenizer.encode(Uint8Array.from(bytes), { allowSpecial: true })).toThrow(
        message,
      );
    }
  });

  test("what is neither a string nor bytes", () => {
    expect(() => tokenizer.encode(null as unknown as string)).toThrow("expected a string");
  });
});

describe("tokenizer.json", () => {
  test("cut anywhere, it is refused with line and column", () => {
    const text = JSON.stringify(tokenizer.toJSON());
    for (let length = 0; length < text.length; length += 7) {
      expect(reading(text.slice(0, length)), `${length}`).toThrow(/^tokenizer\.json:1:\d+: /);
    }
  });

  test("with any byte changed, it is read or refused by an Error, never worse", () => {
    const bytes = new TextEncoder().encode(JSON.stringify(tokenizer.toJSON()));
    for (let at = 0; at < bytes.length; at += 11) {
      const broken = bytes.slice();
      broken[at] = 0x22;
      try {
        Tokenizer.fromJSON(broken);
      } catch (error) {
        expect((error as Error).message).toMatch(/^tokenizer\.json/);
      }
    }
  });

  test("a merge that names an unknown token: its number and the token", () => {
    const named = json(({ model }) => {
      model.merges[3] = ["q", "zzz"];
    });
    expect(reading(named)).toThrow(/1:\d+: merge 3 names an unknown token, "zzz"/);
    const result = json(({ model }) => {
      model.merges[2] = ["q", "z"];
    });
    expect(reading(result)).toThrow(/merge 2 names an unknown token, "qz"/);
    const single = json(({ model }) => {
      model.merges[1] = ["q"];
    });
    expect(reading(single)).toThrow(/^tokenizer\.json:1:\d+: /);
  });

  test("ids and tokens that clash", () => {
    const twice = json(({ model }) => {
      model.vocab.zq = 7;
    });
    expect(reading(twice)).toThrow(/two tokens of the vocabulary have the id 7/);
    const missing = json(({ model }) => {
      delete model.vocab.a;
      model.merges = [];
    });
    expect(reading(missing)).toThrow(/no token for byte 97/);
    const added = json(({ added_tokens }) => {
      added_tokens[1]!.id = 0;
    });
    expect(reading(added)).toThrow(/added_tokens\[1\]: id 0 is given twice/);
    const far = json(({ added_tokens }) => {
      added_tokens[1]!.id = 2_000_000_000;
    });
    expect(reading(far)).toThrow(/2000000000|<\/s>/);
  });

  test("features that are not implemented are refused by name", () => {
    const cases: [(json: Json) => void, string][] = [
      [(json) => Object.assign(json, { normalizer: { type: "NFC" } }), "NFC"],
      [(json) => Object.assign(json, { decoder: { type: "Metaspace" } }), "Metaspace"],
      [(json) => Object.assign(json, { pre_tokenizer: { type: "Whitespace" } }), "Whitespace"],
      [(json) => Object.assign(json, { pre_tokenizer: null }), "pre_tokenizer"],
      [(json) => Object.assign(json, { truncation: { max_length: 5 } }), "truncation"],
      [(json) => Object.assign(json, { padding: {} }), "padding"],
      [(json) => Object.assign(json, { post_processor: { type: "Roberta" } }), "Roberta"],
      [(json) => Object.assign(json, { novelty: 1 }), "novelty"],
      [({ model }) => Object.assign(model, { type: "Unigram" }), "Unigram"],
      [({ model }) => Object.assign(model, { dropout: 0.1 }), "dropout"],
      [({ model }) => Object.assign(model, { byte_fallback: true }), "byte_fallback"],
      [({ model }) => Object.assign(model, { end_of_word_suffix: "_" }), "end_of_word_suffix"],
      [({ model }) => Object.assign(model, { novelty: 1 }), "novelty"],
    ];
    for (const [change, name] of cases) {
      expect(reading(json(change)), name).toThrow(name);
      expect(reading(json(change)), name).toThrow("is not implemented");
    }
  });
});
