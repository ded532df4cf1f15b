/** Schemas of all that is supported: whatever is drawn, a validator takes it; what fits them is read. */
import { trainBpe } from "@dsv3/tokenizer";
import { Ajv2020 } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import fc from "fast-check";
import { expect, test } from "vitest";
import { SCHEMAS } from "../testing/schemas.ts";
import { automatonOf, type Format, Grammar, tokenTree } from "./grammar.ts";

const tokenizer = trainBpe(['{"name": "Ada", "id": 12.5, "on": true} false null'], {
  vocabSize: 300,
});
const tree = tokenTree(tokenizer);
const eos = tokenizer.specialId("eos");
const ajv = new Ajv2020({ strict: false });
addFormats.default(ajv);

const supported = SCHEMAS.filter(({ refused }) => refused === undefined);

test.each(supported)("$name: every answer is valid, cut short or not", ({ schema }) => {
  const valid = ajv.compile(schema as object);
  const format: Format = { type: "schema", schema };
  const grammar = new Grammar(format, tree, [eos], tokenizer.vocabSize);
  const shortest = grammar.start.distance;
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 60 }), fc.infiniteStream(fc.nat()), (more, choices) => {
      let state = grammar.start;
      const ids: number[] = [];
      const maxTokens = shortest + 1 + more;
      while (ids.length < maxTokens && !grammar.complete(state)) {
        const mask = grammar.mask(state, maxTokens - ids.length);
        const may = Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter(
          (id) => (mask[id >> 5]! >> (id & 31)) & 1,
        );
        const id = may[choices.next().value % may.length]!;
        if (id === eos) break;
        ids.push(id);
        state = grammar.after(state, id)!;
      }
      const text = tokenizer.decode(ids);
      expect([text, state.accepting, valid(JSON.parse(text))]).toEqual([text, true, true]);
    }),
    { numRuns: 25 },
  );
});

test.each(supported)(
  "$name: what fits is read, what does not is refused",
  ({ schema, fits, fails }) => {
    const automaton = automatonOf({ type: "schema", schema });
    const is = (value: unknown) => {
      let state: ReturnType<typeof automaton.step> = automaton.start;
      for (const byte of new TextEncoder().encode(JSON.stringify(value))) {
        state = state && automaton.step(state, byte);
      }
      return state?.accepting === true;
    };
    const valid = ajv.compile(schema as object);
    for (const value of fits) expect([value, valid(value), is(value)]).toEqual([value, true, true]);
    for (const value of fails)
      expect([value, valid(value), is(value)]).toEqual([value, false, false]);
  },
);

test.each(SCHEMAS.filter(({ refused }) => refused !== undefined))(
  "$name is refused, and told why",
  ({ schema, refused }) => {
    expect(() => automatonOf({ type: "schema", schema })).toThrow(refused);
  },
);

test("bounds of numbers are kept to the last digit", () => {
  const bound = fc.oneof(
    fc.integer({ min: -2000, max: 2000 }),
    fc.integer({ min: -30_000, max: 30_000 }).map((n) => n / 1000),
    fc.constantFrom(0, -0.5, 0.1, 1e-7, 1e6),
  );
  fc.assert(
    fc.property(
      bound,
      bound,
      fc.boolean(),
      fc.boolean(),
      fc.boolean(),
      bound,
      (a, b, x, y, whole, at) => {
        const [low, high] = [Math.min(a, b), Math.max(a, b)];
        const schema = {
          type: whole ? "integer" : "number",
          [x ? "exclusiveMinimum" : "minimum"]: low,
          [y ? "exclusiveMaximum" : "maximum"]: high,
        };
        const values = [low, high, at, Math.round(at), low + 0.001, high - 0.001, (low + high) / 2];
        const texts = values
          .map((value) => `${Number(value.toFixed(6))}`)
          .filter((t) => !t.includes("e"));
        const valid = ajv.compile(schema);
        const expected = texts.map((text) => valid(JSON.parse(text)));
        let automaton: ReturnType<typeof automatonOf>;
        try {
          automaton = automatonOf({ type: "schema", schema });
        } catch {
          expect(expected).not.toContain(true);
          return;
        }
        const read = texts.map((text) => {
          let state: ReturnType<typeof automaton.step> = automaton.start;
          for (const byte of Buffer.from(text)) state = state && automaton.step(state, byte);
          return state?.accepting === true;
        });
        expect([schema, texts, read]).toEqual([schema, texts, expected]);
      },
    ),
    { numRuns: 300 },
  );
});
