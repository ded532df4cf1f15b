import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { splitJson } from "./json-values.ts";

async function* stream(parts: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  // A reader may overwrite its buffer after each part.
  for (const part of parts) {
    const buffer = Uint8Array.from(part);
    yield buffer;
    buffer.fill(0);
  }
}

async function split(parts: readonly Uint8Array[], maxBytes = 1e6): Promise<string[]> {
  const found: string[] = [];
  for await (const value of splitJson(stream(parts), maxBytes)) {
    found.push("bytes" in value ? Buffer.from(value.bytes).toString() : value.problem);
  }
  return found;
}
const whole = (text: string, maxBytes?: number) => split([Buffer.from(text)], maxBytes);

describe("splitJson", () => {
  it.each([
    ["[]", []],
    ["[ ]\n", []],
    ['[1, "a,]\\"b" ,{"c":[2]},[3], null]', ["1", '"a,]\\"b"', '{"c":[2]}', "[3]", "null"]],
    ['\ufeff[{"a":1}]', ['{"a":1}']],
    // One object, pretty or not, and lines of JSON under the name .json.
    ['{\n "a": [1, 2]\n}\n', ['{\n "a": [1, 2]\n}']],
    ['{"a":1}\n{"b":2}', ['{"a":1}', '{"b":2}']],
    ["17", ["17"]],
    [" \n", []],
    // What is between the brackets is for the parser to refuse.
    ["[{]]", ["{]"]],
  ])("cuts %j", async (text, expected) => {
    expect(await whole(text)).toEqual(expected);
  });

  it.each([
    ["[1,,2]", 'unexpected "," after record 1'],
    ["[1 2]", 'unexpected "2" after record 1'],
    ["[1],[2]", 'unexpected "," after record 1'],
    ["[1]]", 'unexpected "]" after record 1'],
    ["[1,]", 'unexpected "]" after record 1'],
    ["]", 'unexpected "]" after record 0'],
    ["}", 'unexpected "}" after record 0'],
    ['{"a":1},{"b":2}', 'unexpected "," after record 1'],
    ["[", "ends within record 0"],
    ["[1,", "ends within record 1"],
    ['[{"a":"b', "ends within record 1"],
    ['{"a":[1', "ends within record 1"],
    ['"abc', "ends within record 1"],
  ])("refuses %j", async (text, message) => {
    await expect(whole(text)).rejects.toThrow(message);
  });

  it("passes over a value that is too large, without keeping it", async () => {
    const text = `[1,"${"x".repeat(100)}",3]`;
    const problem = "the record has 102 bytes, more than the limit of 50";
    expect(await whole(text, 50)).toEqual(["1", problem, "3"]);
    const bytes = Buffer.from(text);
    const pieces = Array.from({ length: bytes.length }, (_, i) => bytes.subarray(i, i + 1));
    expect(await split(pieces, 50)).toEqual(["1", problem, "3"]);
  });

  it("gives the entries of any list, for any cut of the stream", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.jsonValue(), { maxLength: 6 }),
        fc.nat(4),
        fc.array(fc.nat(200), { maxLength: 6 }),
        async (values, indent, cuts) => {
          const bytes = Buffer.from(JSON.stringify(values, null, indent));
          const ends = [...cuts.map((c) => c % (bytes.length + 1)), bytes.length];
          const at = [0, ...ends.sort((a, b) => a - b)];
          const parts = at.slice(1).map((end, i) => bytes.subarray(at[i], end));
          const found = await split(parts);
          expect(found.map((text) => JSON.parse(text))).toEqual(JSON.parse(bytes.toString()));
        },
      ),
    );
  });
});
