/** A schema for each feature of JSON Schema, after the kinds that JSONSchemaBench (arXiv 2501.10868) counts. */

export interface SchemaCase {
  readonly name: string;
  readonly schema: unknown;
  /** Values that the schema allows, their properties in its order, and that we read. */
  readonly fits: readonly unknown[];
  readonly fails: readonly unknown[];
  /** Part of the message for a schema that is not supported. */
  readonly refused?: string;
}

const string = { type: "string" };

const supported: readonly (readonly [string, unknown, readonly unknown[], readonly unknown[]])[] = [
  [
    "nested objects",
    {
      type: "object",
      properties: {
        user: {
          type: "object",
          properties: { name: string, address: { type: "object", properties: { city: string } } },
          required: ["name"],
        },
        active: { type: "boolean" },
      },
      required: ["user"],
    },
    [{ user: { name: "Ada", address: { city: "Turin" } }, active: true }, { user: { name: "" } }],
    [{ active: true }, { user: {} }, { user: { name: 1 } }],
  ],
  ["enum", { enum: ["red", 1, null, { a: [] }] }, ["red", 1, null, { a: [] }], ["blue", 2]],
  ["enum of a type", { type: "string", enum: ["a", "b", 3] }, ["a", "b"], [3, "c"]],
  ["const", { const: { v: 2 } }, [{ v: 2 }], [{ v: 1 }]],
  ["pattern", { type: "string", pattern: "^[A-Z]{2}-\\d{3}$" }, ["AB-123"], ["ab-123", "AB-12"]],
  ["lengths", { type: "string", minLength: 2, maxLength: 4 }, ["ab", "aé😀!"], ["a", "abcde"]],
  [
    "whole numbers",
    { type: "integer", minimum: -12, maximum: 345 },
    [-12, 0, 99, 345],
    [-13, 346, 1.5],
  ],
  ["whole numbers from", { type: "integer", exclusiveMinimum: 0 }, [1, 10, 99999], [0, -1]],
  ["numbers", { type: "number", minimum: 0, exclusiveMaximum: 1 }, [0, 0.5, 0.999], [1, -0.1, 1.5]],
  [
    "numbers between",
    { type: "number", minimum: 36.6, maximum: 42 },
    [36.6, 37, 41.99, 42],
    [36.59, 42.01],
  ],
  ["numbers below 0", { type: "number", maximum: -2.5 }, [-2.5, -2.75, -3, -10], [-2.4, 0, 2.5]],
  [
    "lists",
    { type: "array", items: { type: "integer" }, minItems: 1, maxItems: 3 },
    [[1], [1, 2, 3]],
    [[], [1, 2, 3, 4], ["a"]],
  ],
  [
    "tuples",
    { type: "array", prefixItems: [string, { type: "number" }], items: false },
    [["x", 1.5]],
    [
      [1, "x"],
      ["x", 1, 1],
    ],
  ],
  [
    "anyOf",
    { anyOf: [string, { type: "object", properties: { n: { type: "null" } }, required: ["n"] }] },
    ["x", { n: null }],
    [1, {}],
  ],
  ["oneOf by type", { oneOf: [string, { type: "integer" }] }, ["x", 3], [true]],
  [
    "oneOf by a constant",
    {
      oneOf: ["circle", "square"].map((kind) => ({
        type: "object",
        properties: { kind: { const: kind }, size: { type: "number" } },
        required: ["kind", "size"],
      })),
    },
    [
      { kind: "circle", size: 1 },
      { kind: "square", size: 2.5 },
    ],
    [{ kind: "line", size: 1 }, { kind: "circle" }],
  ],
  ["allOf of one", { allOf: [{ type: "boolean" }] }, [true], [1]],
  ["several types", { type: ["integer", "null"] }, [3, null], ["3"]],
  [
    "references",
    {
      type: "object",
      properties: { a: { $ref: "#/$defs/id" }, b: { $ref: "#/$defs/id" } },
      required: ["a"],
      $defs: { id: { type: "integer", minimum: 1 } },
    },
    [{ a: 1, b: 2 }, { a: 7 }],
    [{ a: 0 }, { b: 1 }],
  ],
  [
    "recursion",
    {
      $ref: "#/$defs/tree",
      $defs: {
        tree: {
          type: "object",
          properties: {
            v: { type: "integer" },
            next: { type: "array", items: { $ref: "#/$defs/tree" } },
          },
          required: ["v"],
        },
      },
    },
    [{ v: 1, next: [{ v: 2 }, { v: 3, next: [] }] }],
    [{ next: [] }, { v: 1, next: [1] }],
  ],
  [
    "maps",
    { type: "object", additionalProperties: { type: "integer" } },
    [{}, { a: 1, "é\n": 2 }],
    [{ a: "1" }],
  ],
  [
    "closed objects",
    { type: "object", properties: { a: string }, additionalProperties: false },
    [{}, { a: "x" }],
    [{ b: 1 }],
  ],
  [
    "open objects",
    {
      type: "object",
      properties: { id: { type: "integer" }, idea: string },
      required: ["id"],
      additionalProperties: { type: "boolean" },
    },
    [
      { id: 1, more: true },
      { id: 1, idea: "x", i: true, ideas: false, "": true },
    ],
    [{ id: "x" }, { id: 1, more: 1 }, { id: 1, idea: true }],
  ],
  ["anything", {}, [1, "x", [null], { a: {} }], []],
  ...(
    [
      ["date", "2024-02-28", "2024-02-30"],
      ["time", "23:59:59Z", "24:00:00Z"],
      ["date-time", "2024-12-31T01:02:03.5+01:00", "2024-12-31"],
      ["email", "ada.l@example.org", "ada"],
      ["hostname", "a-b.example", "-a"],
      ["ipv4", "192.168.0.1", "256.1.1.1"],
      ["ipv6", "2001:db8:0:0:0:0:0:1", "2001:zz::"],
      ["uuid", "123e4567-e89b-12d3-a456-426614174000", "123"],
      ["uri", "https://example.org/a/b", "no"],
    ] as const
  ).map(
    ([format, fits, fails]) =>
      [`format ${format}`, { type: "string", format }, [fits], [fails]] as const,
  ),
];

const refused: readonly (readonly [string, unknown, string])[] = [
  ["multipleOf", { type: "integer", multipleOf: 5 }, '"multipleOf" is not supported'],
  [
    "patternProperties",
    { type: "object", patternProperties: { "^a": string } },
    '"patternProperties"',
  ],
  ["propertyNames", { type: "object", propertyNames: { maxLength: 3 } }, '"propertyNames"'],
  ["minProperties", { type: "object", minProperties: 1 }, '"minProperties"'],
  ["uniqueItems", { type: "array", uniqueItems: true }, '"uniqueItems"'],
  ["contains", { type: "array", contains: string }, '"contains"'],
  ["not", { not: string }, '"not"'],
  ["if", { if: string, else: { type: "null" } }, '"if"'],
  ["dependentRequired", { type: "object", dependentRequired: { a: ["b"] } }, '"dependentRequired"'],
  ["allOf of several", { allOf: [string, { minLength: 2 }] }, '"allOf" of more than one'],
  [
    "oneOf that overlaps",
    { oneOf: [string, { type: "string", maxLength: 3 }] },
    "may fit both 0 and 1",
  ],
  [
    "a pattern with lengths",
    { type: "string", pattern: "a+", maxLength: 3 },
    '"pattern" beside lengths',
  ],
  ["look-around", { type: "string", pattern: "(?=a)" }, "are regular"],
  ["references elsewhere", { $ref: "https://example.org/s" }, "must begin with #"],
];

export const SCHEMAS: readonly SchemaCase[] = [
  ...supported.map(([name, schema, fits, fails]) => ({ name, schema, fits, fails })),
  ...refused.map(([name, schema, refused]) => ({ name, schema, fits: [], fails: [], refused })),
];
