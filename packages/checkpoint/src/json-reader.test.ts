import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { JsonReader } from "./json-reader.ts";

const reader = (text: string): JsonReader =>
  new JsonReader(text, (problem) => {
    throw new SyntaxError(problem);
  });

/** What `JSON.parse` would build, built through the reader. */
function build(json: JsonReader): unknown {
  const next = json.peek();
  if (next === "{") {
    const value: Record<string, unknown> = {};
    json.object((key) => {
      Object.defineProperty(value, key, {
        value: build(json),
        enumerable: true,
        configurable: true,
        writable: true,
      });
    });
    return value;
  }
  if (next === "[") {
    const value: unknown[] = [];
    json.array(() => value.push(build(json)));
    return value;
  }
  if (next === '"') return json.string();
  if (next >= "0" && next <= "9") return json.integer();
  json.skip();
  return null;
}

function accepts(read: () => unknown): boolean {
  try {
    read();
    return true;
  } catch (error) {
    if (error instanceof SyntaxError) return false;
    throw error;
  }
}

describe("JsonReader", () => {
  it("builds what JSON.parse builds", () => {
    const leaf = fc.oneof(fc.string({ unit: "grapheme" }), fc.maxSafeNat(), fc.constant(null));
    const value = fc.letrec((tie) => ({
      node: fc.oneof(
        { maxDepth: 4 },
        leaf,
        fc.array(tie("node"), { maxLength: 4 }),
        fc.dictionary(fc.string({ unit: "binary" }), tie("node"), { maxKeys: 4 }),
      ),
    })).node;
    fc.assert(
      fc.property(value, fc.constantFrom(0, 2, "\t"), (given, indent) => {
        const text = JSON.stringify(given, null, indent);
        const json = reader(text);
        expect(build(json)).toEqual(JSON.parse(text));
        json.end();
      }),
      { numRuns: 300 },
    );
  });

  it("accepts what JSON.parse accepts, and nothing else, in mutated text", () => {
    const token = fc.constantFrom(
      ...['{"a":1}', "[1,2]", '"x"', '"\\u00e9\\n"', "-1.5e3", "0", "01", "1.", ".5", "1e", "-"],
      ...["{", "}", "[", "]", ",", ":", '"', "\\", "true", "nul", "null", " ", "\n", "\u0001", "+"],
    );
    fc.assert(
      fc.property(fc.array(token, { maxLength: 8 }), (tokens) => {
        const text = tokens.join("");
        const ours = accepts(() => {
          const json = reader(text);
          json.skip();
          json.end();
        });
        // Numbers past float64 are the one thing that JSON.parse takes, as infinities, and we refuse.
        const theirs = accepts(() => {
          JSON.parse(text, (_key, value) => {
            if (Math.abs(value) === Number.POSITIVE_INFINITY) throw new SyntaxError("past float64");
            return value;
          });
        });
        expect([text, ours]).toEqual([text, theirs]);
      }),
      { numRuns: 5000, examples: [[["[", "1", ",", "2", "]"]], [["-1.5e3", "0", "01"]]] },
    );
  });

  it.each(["-1", "1.0", "1e2", "01", "9007199254740992", "", '"1"', "1E2", "-0"])(
    "takes no %s for an integer",
    (text) => {
      expect(() => {
        const json = reader(text);
        json.integer();
        json.end();
      }).toThrow(/expected/);
    },
  );

  it("reads the largest safe integer", () => {
    expect(reader(" 9007199254740991").integer()).toBe(Number.MAX_SAFE_INTEGER);
  });

  it("refuses what JSON.parse would take: lone surrogates, 1e999, endless depth", () => {
    expect(() => reader('"\\ud800"').string()).toThrow(/valid escapes at character 0/);
    expect(() => reader("1e999").skip()).toThrow(/range of float64/);
    expect(() => reader("[".repeat(1e6)).skip()).toThrow(/at most 127 levels/);
  });

  it("is linear in hostile text", () => {
    for (const text of [`"${"\\n".repeat(2e6)}"`, "1".repeat(4e6), `[${"1,".repeat(1e6)}1]`]) {
      accepts(() => reader(text).skip()); // quadratic time would run into the time limit
    }
  });

  it("says where and what", () => {
    expect(() => reader('{"a" 1}').skip()).toThrow('expected ":" at character 5, found "1}"');
    expect(() => reader('{"a":1').skip()).toThrow(
      'expected "," or "}" at character 6, found the end',
    );
  });
});
