import { trainBpe } from "@dsv3/tokenizer";
import fc from "fast-check";
import { expect, test } from "vitest";
import { automatonOf, type Format, Grammar, tokenTree } from "./grammar.ts";

/** Whether a text is one of the format, byte by byte. */
function matcher(format: Format): (text: string) => boolean {
  const automaton = automatonOf(format);
  return (text) => {
    let state: ReturnType<typeof automaton.step> = automaton.start;
    for (const byte of new TextEncoder().encode(text)) {
      state = automaton.step(state, byte);
      if (state === null) return false;
    }
    return state.accepting;
  };
}

test.each<[string, string[], string[]]>([
  ["a|bc", ["a", "bc"], ["", "b", "abc"]],
  ["^a*b+c?$", ["b", "aab", "abbc"], ["", "a", "bcc"]],
  ["(?:ab){2,3}", ["abab", "ababab"], ["ab", "abababab"]],
  ["[a-c]{2}", ["ab", "cc"], ["a", "ad", "abc"]],
  ["[^a-c]", ["d", "é", "😀"], ["a", ""]],
  ["\\d{3}-\\d{4}", ["555-1234"], ["555-123", "5551234"]],
  ["\\w+@\\w+\\.com", ["a_1@b.com"], ["a@bxcom", "@b.com"]],
  ["[à-ü]+", ["éèù"], ["e", "é1"]],
  ["[߰-ࠆ]", ["\u07ff", "\u0800", "\u07f0"], ["\u07ef", "\u0807"]],
  [".", ["x", "€", "𝄞"], ["\n", "xx"]],
  ["\\u00e9|\\x41", ["é", "A"], ["e"]],
  ["(a*)*b", ["b", "aab"], ["a"]],
  ["", [""], ["a"]],
  ["[]a]", [], []],
])("the regular expression %s", (pattern, matches, others) => {
  if (pattern === "[]a]")
    return expect(() => automatonOf({ type: "regex", pattern })).toThrow("no text fits");
  const is = matcher({ type: "regex", pattern });
  for (const text of matches) expect([text, is(text)]).toEqual([text, true]);
  for (const text of others) expect([text, is(text)]).toEqual([text, false]);
});

test.each([
  ["a{2", "begins no count"],
  ["(a", "it ends too early"],
  ["a)", "closes nothing"],
  ["[a", "it ends too early"],
  ["*a", "nothing to repeat"],
  ["a**", "two repetitions"],
  ["a{2000}", "more than 1000 times"],
  ["a{3,2}", "ends before it begins"],
  ["[b-a]", "ends before it begins"],
  ["(?=a)", "are regular"],
  ["\\1", "is not understood"],
  ["a^b", "only understood at the ends"],
  ["(".repeat(200), "nested too deeply"],
  ["(((a{999}){999}){999})", "states"],
])("the pattern %s is refused", (pattern, message) => {
  expect(() => automatonOf({ type: "regex", pattern })).toThrow(message);
});

test("JSON mode takes every object that JSON.stringify writes, and nothing that JSON.parse refuses", () => {
  const is = matcher({ type: "json" });
  const value = fc.jsonValue({ maxDepth: 4, stringUnit: "binary" });
  fc.assert(
    fc.property(
      fc.dictionary(fc.string({ unit: "binary" }), value),
      fc.boolean(),
      (object, spaced) => {
        const text = JSON.stringify(object, null, spaced ? 1 : undefined);
        if (text.isWellFormed()) expect([text, is(text)]).toEqual([text, true]);
      },
    ),
  );
  for (const text of ['{"a":"\\u00e9\\/\\uD7ff\\n"}', '{ "a" : 1E+5 }'])
    expect([text, is(text)]).toEqual([text, true]);
  expect(is('{"a":"\\ud800"}')).toBe(false);
  const mutated = fc.tuple(fc.nat(), fc.constantFrom(...'{}[]",:0e-\\ \n', ""));
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), value, { maxKeys: 3 }),
      mutated,
      (object, [at, change]) => {
        const text = JSON.stringify(object);
        const place = at % text.length;
        const broken = text.slice(0, place) + change + text.slice(place + 1);
        if (is(broken)) JSON.parse(broken);
      },
    ),
    { numRuns: 500 },
  );
  for (const text of [
    "",
    "[]",
    "1",
    '{"a":01}',
    '{"a":1,}',
    '{"a" 1}',
    "{\u00a0}",
    '{"a":"\n"}',
    '{"a":.5}',
  ]) {
    expect([text, is(text)]).toEqual([text, false]);
  }
});

const person = {
  type: "object",
  properties: {
    name: { type: "string", minLength: 1, maxLength: 5 },
    age: { type: "integer", description: "in years" },
    tags: { type: "array", items: { enum: ["a", "b"] }, maxItems: 2 },
    parent: { anyOf: [{ $ref: "#" }, { type: "null" }] },
  },
  required: ["name", "parent"],
  additionalProperties: false,
};

test.each<[string, unknown, string[], string[]]>([
  [
    "an object",
    person,
    [
      '{"name":"Ada","parent":null}',
      '{ "name": "Ada",\n "age": -3, "parent": {"name":"éèàùò","tags":["a","b"],"parent":null} }',
    ],
    [
      '{"name":"","parent":null}',
      '{"name":"Ada"}',
      '{"parent":null,"name":"Ada"}',
      '{"name":"Ada","age":1.5,"parent":null}',
      '{"name":"A","x":1,"parent":null}',
      '{"name":"A","tags":["a","b","a"],"parent":null}',
      '{"name":"A",,"parent":null}',
    ],
  ],
  [
    "optional properties alone",
    { properties: { a: { type: "null" }, b: { type: "null" } }, additionalProperties: false },
    ["{}", '{"a":null}', '{"b":null}', '{"a":null,"b":null}'],
    ['{,"b":null}', '{"a":null,}', '{"b":null,"a":null}'],
  ],
  [
    "a map",
    { type: "object", additionalProperties: { type: "boolean" } },
    ["{}", '{"x":true,"y":false}'],
    ['{"x":1}'],
  ],
  [
    "lists",
    { type: "array", items: { type: "number" }, minItems: 2 },
    ["[1,2]", "[1e5, -0.5, 3]"],
    ["[]", "[1]", "[1,2,]", "[01,2]"],
  ],
  [
    "a tuple",
    { prefixItems: [{ type: "string" }, { const: 3 }], items: false },
    ['["x",3]'],
    ['["x"]', '["x",3,3]'],
  ],
  ["several types", { type: ["string", "null"] }, ['"x"', "null"], ["1"]],
  [
    "a pattern",
    { type: "string", pattern: '^[a-z"\\\\]+$' },
    ['"ab"', '"a\\"b"', '"\\\\"'],
    ['"a"b"', '"A"', '"\\"'],
  ],
  ["anything", true, ["1", '[{"a":null}]', '"x"'], ["", "[1,]"]],
  ["const", { const: { a: [1] } }, ['{"a":[1]}'], ['{"a": [1]}']],
  [
    "a definition",
    { $defs: { n: { type: "array", items: { $ref: "#/$defs/n" } } }, $ref: "#/$defs/n" },
    ["[]", "[[],[[]]]"],
    ["[1]"],
  ],
])("the schema of %s", (_, schema, matches, others) => {
  const is = matcher({ type: "schema", schema });
  for (const text of matches) expect([text, is(text)]).toEqual([text, true]);
  for (const text of others) expect([text, is(text)]).toEqual([text, false]);
});

const deep = (n: number): unknown => (n === 0 ? {} : { type: "array", items: deep(n - 1) });

test.each<[string, unknown, string]>([
  ["a word", "object", "at #: a schema is an object or true"],
  ["an unknown type", { type: "date" }, 'type "date" is none'],
  [
    "an unknown keyword",
    { properties: { a: { type: "number", multipleOf: 3 } }, additionalProperties: false },
    'at #/properties/a: "multipleOf" is not supported',
  ],
  ["allOf", { allOf: [{}, {}] }, '"allOf" of more than one'],
  ["nowhere", { $ref: "#/$defs/x" }, "$ref #/$defs/x leads nowhere"],
  ["elsewhere", { $ref: "http://x" }, "must begin with #"],
  ["a reference to nothing but itself", { $ref: "#" }, "no text fits"],
  [
    "an object without end",
    {
      type: "object",
      properties: { a: { $ref: "#" } },
      required: ["a"],
      additionalProperties: false,
    },
    "no text fits",
  ],
  ["an empty enum", { enum: [] }, "a list of one at least"],
  ["bounds that cross", { type: "string", minLength: 3, maxLength: 2 }, "the most is less"],
  ["endless bounds", { type: "string", maxLength: 1e9 }, "from 0 to 1000"],
  ["required without property", { type: "object", required: ["a"] }, 'required property "a"'],
  [
    "a value that fits twice",
    { oneOf: [{ type: "integer" }, { type: "number" }] },
    "may fit both 0 and 1",
  ],
  ["no number between", { type: "integer", minimum: 0.2, maximum: 0.8 }, "no whole number"],
  ["bounds of Draft 4", { type: "number", exclusiveMinimum: true }, "is true, not a number"],
  ["a constant of another type", { type: "string", const: 1 }, "no value is of its type"],
  ["a bad pattern", { type: "string", pattern: "(" }, 'pattern "("'],
  ["depth", deep(100), "nested too deeply"],
  ["a prototype", { $ref: "#/__proto__" }, "leads nowhere"],
])("a schema with %s is refused", (_, schema, message) => {
  expect(() => automatonOf({ type: "schema", schema })).toThrow(message);
});

const tokenizer = trainBpe(['{"name": "Ada", "parent": null} true false null'], { vocabSize: 330 });
const tree = tokenTree(tokenizer);
const eos = tokenizer.specialId("eos");
const allowed = (mask: Int32Array) =>
  Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter(
    (id) => (mask[id >> 5]! >> (id & 31)) & 1,
  );

test("masks allow exactly the tokens whose bytes may come", () => {
  const format: Format = { type: "schema", schema: person };
  const grammar = new Grammar(format, tree, [eos], tokenizer.vocabSize);
  let state = grammar.start;
  for (const token of tokenizer.encode('{"name": "Ada", "parent": null}')) {
    const may = allowed(grammar.mask(state, 1e6));
    const expected = Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter((id) =>
      id === eos ? state.accepting : grammar.after(state, id) !== null,
    );
    expect(may).toEqual(expected);
    state = grammar.after(state, token)!;
  }
  expect(allowed(grammar.mask(state, 10))).toEqual([eos]);
  expect(grammar.complete(state)).toBe(true);
});

test("whatever is drawn, the answer is whole when its tokens end", () => {
  const schemas = [person, true, { type: "array", items: { type: "string" } }];
  fc.assert(
    fc.property(
      fc.constantFrom(...schemas),
      fc.integer({ min: 30, max: 80 }),
      fc.infiniteStream(fc.nat()),
      (schema, maxTokens, choices) => {
        const format: Format = { type: "schema", schema };
        const grammar = new Grammar(format, tree, [eos], tokenizer.vocabSize);
        let state = grammar.start;
        const ids: number[] = [];
        while (ids.length < maxTokens) {
          const may = allowed(grammar.mask(state, maxTokens - ids.length));
          expect(may.length).toBeGreaterThan(0);
          const id = may[choices.next().value % may.length]!;
          if (id === eos) break;
          ids.push(id);
          state = grammar.after(state, id)!;
        }
        expect(state.accepting).toBe(true);
        JSON.parse(tokenizer.decode(ids));
      },
    ),
    { numRuns: 40 },
  );
});
