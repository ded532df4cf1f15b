/**
 * JSON, free or by a JSON Schema, as a grammar. Objects have their properties in the schema's order,
 * each once, required ones always; between tokens of JSON stands at most a little white space. A
 * keyword that is not understood is refused rather than ignored, but for annotations.
 */
import { disjoint } from "./disjoint.ts";
import { FORMATS } from "./formats.ts";
import { JsonText } from "./json-text.ts";
import { GrammarError, type Network, type Piece } from "./network.ts";
import { type Bound, type Bounds, numbersBetween, wholeBetween } from "./numbers.ts";
import { regex } from "./regex.ts";

const ANNOTATIONS = new Set([
  ...["title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"],
  ...["$schema", "$id", "$comment", "$defs", "definitions"],
]);
/** Keywords by the type that they belong to. */
const KEYWORDS: Readonly<Record<string, readonly string[]>> = {
  object: ["properties", "required", "additionalProperties"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  string: ["minLength", "maxLength", "pattern", "format"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  integer: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  boolean: [],
  null: [],
};
const TYPES = Object.keys(KEYWORDS);
const MAX_SCHEMA_DEPTH = 64;
const MAX_COUNT = 1000;

type Schema = Readonly<Record<string, unknown>>;

/** Any JSON object: what OpenAI calls JSON mode. */
export function jsonObject(net: Network): Piece {
  return new JsonGrammar(net, {}).object({}, "", 0);
}

/** JSON values that fit a schema. @throws GrammarError with the place in the schema */
export function jsonSchema(net: Network, schema: unknown): Piece {
  return new JsonGrammar(net, schema).value(schema, "#", 0);
}

class JsonGrammar {
  readonly #net: Network;
  readonly #root: unknown;
  readonly #text: JsonText;

  constructor(net: Network, root: unknown) {
    this.#net = net;
    this.#root = root;
    this.#text = new JsonText(net);
  }

  value(schema: unknown, path: string, depth: number): Piece {
    const net = this.#net;
    if (depth > MAX_SCHEMA_DEPTH) this.#fail(path, "the schema is nested too deeply");
    if (schema === true) return this.#any();
    if (schema === false) this.#fail(path, "false allows no value");
    if (typeof schema !== "object" || schema === null || Array.isArray(schema)) {
      this.#fail(path, "a schema is an object or true");
    }
    const s = schema as Schema;
    const keys = Object.keys(s).filter((key) => !ANNOTATIONS.has(key));
    const alone = (key: string, others: readonly string[] = []) => {
      const extra = keys.find((k) => k !== key && !others.includes(k));
      if (extra) this.#fail(path, `"${extra}" beside "${key}" is not supported`);
    };
    if ("$ref" in s) {
      alone("$ref");
      return this.#reference(s.$ref, path, depth);
    }
    if ("const" in s || "enum" in s) {
      alone("const" in s ? "const" : "enum", ["type"]);
      const values = "const" in s ? [s.const] : this.#list(s.enum, `${path}/enum`);
      const fitting = values.filter((value) => !("type" in s) || isOfType(value, s.type));
      if (fitting.length === 0) this.#fail(path, "no value is of its type");
      return net.choice(fitting.map((value) => net.text(JSON.stringify(value))));
    }
    for (const key of ["anyOf", "oneOf"]) {
      if (!(key in s)) continue;
      alone(key);
      const schemas = this.#list(s[key], `${path}/${key}`);
      if (key === "oneOf") this.#checkApart(schemas, path);
      return net.choice(schemas.map((one, i) => this.value(one, `${path}/${key}/${i}`, depth + 1)));
    }
    if ("allOf" in s) {
      alone("allOf");
      const schemas = this.#list(s.allOf, `${path}/allOf`);
      if (schemas.length > 1) this.#fail(path, '"allOf" of more than one schema is not supported');
      return this.value(schemas[0], `${path}/allOf/0`, depth + 1);
    }
    if (keys.length === 0) return this.#any();

    const implied = TYPES.filter(
      (type) => type !== "integer" && KEYWORDS[type]!.some((key) => key in s),
    );
    const types = "type" in s ? (Array.isArray(s.type) ? s.type : [s.type]) : implied;
    for (const type of types) {
      if (!TYPES.includes(type as string)) this.#fail(path, `type ${JSON.stringify(type)} is none`);
    }
    const known = ["type", ...types.flatMap((type) => KEYWORDS[type as string]!)];
    const unknown = keys.find((key) => !known.includes(key));
    if (unknown) this.#fail(path, `"${unknown}" is not supported here`);
    return net.choice(types.map((type) => this.#typed(type as string, s, path, depth)));
  }

  object(s: Schema, path: string, depth: number): Piece {
    const net = this.#net;
    const properties = Object.entries((s.properties ?? {}) as Schema);
    const required = new Set(
      s.required === undefined ? [] : this.#list(s.required, `${path}/required`, 0),
    );
    for (const name of required) {
      if (!properties.some(([key]) => key === name)) {
        this.#fail(path, `required property ${JSON.stringify(name)} is not in properties`);
      }
    }
    const extra = s.additionalProperties ?? properties.length === 0;
    const other =
      extra === false
        ? null
        : this.#text.once(
            net.sequence([
              properties.length === 0 ? this.#string() : this.#text.otherName(properties),
              this.#text.colon(),
              this.value(extra, `${path}/additionalProperties`, depth + 1),
            ]),
          );
    if (other && properties.length === 0) {
      return this.#text.enclosed("{", "}", this.#text.separated(other, 0));
    }
    // Two tracks, before and after the first member: only the second begins members with a comma.
    const members: Piece = (from, to) => {
      let [none, some] = [from, net.node()];
      for (const [name, schema] of properties) {
        const [nextNone, nextSome] = [net.node(), net.node()];
        const member = net.sequence([
          net.text(JSON.stringify(name)),
          this.#text.colon(),
          this.value(schema, `${path}/properties/${name}`, depth + 1),
        ]);
        const shared = this.#text.once(member);
        shared(none, nextSome);
        net.sequence([this.#text.comma(), shared])(some, nextSome);
        if (!required.has(name)) {
          net.empty()(none, nextNone);
          net.empty()(some, nextSome);
        }
        [none, some] = [nextNone, nextSome];
      }
      if (other === null) {
        net.empty()(none, to);
        net.empty()(some, to);
        return;
      }
      const others = this.#text.once(net.repeat(net.sequence([this.#text.comma(), other]), 0));
      net.optional(net.sequence([other, others]))(none, to);
      others(some, to);
    };
    return this.#text.enclosed("{", "}", members);
  }

  #typed(type: string, s: Schema, path: string, depth: number): Piece {
    const net = this.#net;
    const digit = net.bytes(48, 57);
    const whole = (digits: number) =>
      net.sequence([
        net.optional(net.bytes(45)),
        net.choice([
          net.bytes(48),
          net.sequence([net.bytes(49, 57), net.repeat(digit, 0, digits - 1)]),
        ]),
      ]);
    switch (type) {
      case "null":
        return net.text("null");
      case "boolean":
        return net.choice([net.text("true"), net.text("false")]);
      case "integer": {
        const bounds = this.#bounds(s, path);
        if (!bounds) return whole(16); // what a double holds exactly
        return wholeBetween(net, bounds) ?? this.#fail(path, "no whole number is in its bounds");
      }
      case "number": {
        const bounds = this.#bounds(s, path);
        if (bounds)
          return numbersBetween(net, bounds) ?? this.#fail(path, "no number is in its bounds");
        const fraction = net.sequence([net.bytes(46), net.repeat(digit, 1, 25)]);
        const sign = net.choice([net.bytes(43), net.bytes(45)]);
        const mark = net.choice([net.bytes(69), net.bytes(101)]);
        const exponent = net.sequence([mark, net.optional(sign), net.repeat(digit, 1, 3)]);
        return net.sequence([whole(22), net.optional(fraction), net.optional(exponent)]);
      }
      case "string":
        return this.#string(s, path);
      case "array":
        return this.#array(s, path, depth);
      default:
        return this.object(s, path, depth);
    }
  }

  #string(s: Schema = {}, path = ""): Piece {
    const net = this.#net;
    const quoted = (inside: Piece) => net.sequence([net.bytes(34), inside, net.bytes(34)]);
    if ("pattern" in s) {
      if ("minLength" in s || "maxLength" in s || "format" in s) {
        this.#fail(path, '"pattern" beside lengths or a format is not supported; write it as one');
      }
      if (typeof s.pattern !== "string") this.#fail(path, '"pattern" must be a text');
      return quoted(regex(net, s.pattern as string, (low, high) => this.#text.inString(low, high)));
    }
    if (s.format !== undefined && Object.hasOwn(FORMATS, `${s.format}`)) {
      if ("minLength" in s || "maxLength" in s) {
        this.#fail(path, `"format": "${s.format}" beside lengths is not supported`);
      }
      return quoted(regex(net, FORMATS[`${s.format}`]!));
    }
    const [low, high] = this.#counts(s.minLength, s.maxLength, path);
    return quoted(net.repeat(this.#text.character, low, high));
  }

  #checkApart(schemas: readonly unknown[], path: string): void {
    const resolved = schemas.map((schema) => this.#resolved(schema, path));
    for (const [j, b] of resolved.entries()) {
      const i = resolved.slice(0, j).findIndex((a) => !disjoint(a, b));
      if (i < 0) continue;
      const why = `a value may fit both ${i} and ${j} of "oneOf"`;
      this.#fail(path, `${why}; use "anyOf", or tell them apart by type or a required constant`);
    }
  }

  /** What a reference, or a chain of them, leads to. */
  #resolved(schema: unknown, path: string): unknown {
    let found = schema;
    for (let i = 0; i < MAX_SCHEMA_DEPTH; i++) {
      const ref = typeof found === "object" && found !== null && (found as Schema).$ref;
      if (typeof ref !== "string") return found;
      found = this.#target(ref, path);
    }
    return this.#fail(path, "its references go round");
  }

  #array(s: Schema, path: string, depth: number): Piece {
    const net = this.#net;
    const first =
      s.prefixItems === undefined ? [] : this.#list(s.prefixItems, `${path}/prefixItems`);
    if (first.length > 0) {
      if (s.items !== false || "minItems" in s || "maxItems" in s) {
        this.#fail(path, '"prefixItems" needs "items": false, and no counts');
      }
      const items = first.map((item, i) => this.value(item, `${path}/prefixItems/${i}`, depth + 1));
      const separated = items.flatMap((item, i) => (i === 0 ? [item] : [this.#text.comma(), item]));
      return this.#text.enclosed("[", "]", net.sequence(separated));
    }
    const item = this.value(s.items ?? true, `${path}/items`, depth + 1);
    const [low, high] = this.#counts(s.minItems, s.maxItems, path);
    return this.#text.enclosed("[", "]", this.#text.separated(item, low, high));
  }

  /** Any JSON value. */
  #any(): Piece {
    return this.#text.rule("any", () =>
      this.#net.choice(
        TYPES.filter((t) => t !== "integer").map((type) => this.#typed(type, {}, "", 0)),
      ),
    );
  }

  #reference(ref: unknown, path: string, depth: number): Piece {
    const target = this.#target(ref, path);
    return this.#text.rule(`ref ${ref}`, () => this.value(target, `${ref}`, depth + 1));
  }

  #target(ref: unknown, path: string): unknown {
    if (typeof ref !== "string" || !/^#(\/|$)/.test(ref)) {
      this.#fail(path, `$ref ${JSON.stringify(ref)} is not of this schema; it must begin with #`);
    }
    let found = this.#root;
    for (const part of (ref as string).split("/").slice(1)) {
      const key = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
      const inside = typeof found === "object" && found !== null && Object.hasOwn(found, key);
      found = inside ? (found as Record<string, unknown>)[key] : undefined;
    }
    if (found === undefined) this.#fail(path, `$ref ${ref} leads nowhere`);
    return found;
  }

  /** The bounds of a number; null: it has none. */
  #bounds(s: Schema, path: string): Bounds | null {
    const ends = (keys: readonly [string, string], tighter: (a: number, b: number) => boolean) => {
      let bound: Bound | undefined;
      for (const key of keys) {
        const value = s[key];
        if (value === undefined) continue;
        if (typeof value !== "number" || !Number.isFinite(value)) {
          this.#fail(path, `"${key}" is ${JSON.stringify(value)}, not a number`);
        }
        const exclusive = key.startsWith("exclusive");
        const same = value === bound?.value && exclusive;
        if (!bound || same || tighter(value as number, bound.value)) {
          bound = { value: value as number, exclusive };
        }
      }
      return bound;
    };
    const low = ends(["minimum", "exclusiveMinimum"], (a, b) => a > b);
    const high = ends(["maximum", "exclusiveMaximum"], (a, b) => a < b);
    return low || high ? { low, high } : null;
  }

  #counts(low: unknown, high: unknown, path: string): [number, number?] {
    for (const count of [low, high]) {
      if (count === undefined) continue;
      if (!Number.isInteger(count) || (count as number) < 0 || (count as number) > MAX_COUNT) {
        this.#fail(path, `${JSON.stringify(count)} is not a whole number from 0 to ${MAX_COUNT}`);
      }
    }
    if (high !== undefined && (high as number) < ((low as number | undefined) ?? 0)) {
      this.#fail(path, "the most is less than the least");
    }
    return [(low as number | undefined) ?? 0, high as number | undefined];
  }

  #list(value: unknown, path: string, least = 1): readonly unknown[] {
    if (Array.isArray(value) && value.length >= least) return value;
    return this.#fail(path, least === 0 ? "must be a list" : "must be a list of one at least");
  }

  #fail(path: string, why: string): never {
    throw new GrammarError(`schema, at ${path || "#"}: ${why}`);
  }
}

function isOfType(value: unknown, type: unknown): boolean {
  const types: unknown[] = Array.isArray(type) ? type : [type];
  if (value === null) return types.includes("null");
  if (Array.isArray(value)) return types.includes("array");
  if (typeof value === "number" && Number.isInteger(value) && types.includes("integer"))
    return true;
  return types.includes(typeof value);
}
