/**
 * JSON, free or by a JSON Schema, as a grammar. Objects have their properties in the schema's order,
 * each once, required ones always; between tokens of JSON stands at most a little white space. A
 * keyword that is not understood is refused rather than ignored, but for annotations.
 */
import { GrammarError, type Network, type Piece } from "./network.ts";
import { regex } from "./regex.ts";

const ANNOTATIONS = new Set([
  ...["title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"],
  ...["$schema", "$id", "$comment", "$defs", "definitions", "format"],
]);
/** Keywords by the type that they belong to. */
const KEYWORDS: Readonly<Record<string, readonly string[]>> = {
  object: ["properties", "required", "additionalProperties"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  string: ["minLength", "maxLength", "pattern"],
  number: [],
  integer: [],
  boolean: [],
  null: [],
};
const TYPES = Object.keys(KEYWORDS);
const MAX_SCHEMA_DEPTH = 64;
const MAX_WHITE_SPACE = 20;
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
  readonly #space: Piece;
  readonly #character: Piece;
  /** Rules by what they stand for: references, and the free values. */
  readonly #rules = new Map<string, number>();

  constructor(net: Network, root: unknown) {
    this.#net = net;
    this.#root = root;
    const blank = net.choice([9, 10, 13, 32].map((byte) => net.bytes(byte)));
    this.#space = this.#rule("space", () => net.repeat(blank, 0, MAX_WHITE_SPACE));
    this.#character = this.#rule("character", () => {
      const hex = net.choice([net.bytes(48, 57), net.bytes(65, 70), net.bytes(97, 102)]);
      const any = (digits: number) => net.repeat(hex, digits, digits);
      const ds = net.choice([net.bytes(68), net.bytes(100)]);
      // Four digits that are no half of a surrogate pair, of which two make one character.
      const code = net.choice([
        net.sequence([
          net.choice([net.bytes(48, 57), net.bytes(65, 67), net.bytes(97, 99)]),
          any(3),
        ]),
        net.sequence([net.choice([net.bytes(69, 70), net.bytes(101, 102)]), any(3)]),
        net.sequence([ds, net.bytes(48, 55), any(2)]),
      ]);
      const escaped = net.choice([net.text("\\/"), net.sequence([net.text("\\u"), code])]);
      return net.choice([this.#inString(0, 0x10ffff), escaped]);
    });
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
    if ("const" in s) {
      alone("const", ["type"]);
      return net.text(JSON.stringify(s.const));
    }
    if ("enum" in s) {
      alone("enum", ["type"]);
      const values = this.#list(s.enum, `${path}/enum`);
      return net.choice(values.map((value) => net.text(JSON.stringify(value))));
    }
    for (const key of ["anyOf", "oneOf"]) {
      if (!(key in s)) continue;
      alone(key);
      const schemas = this.#list(s[key], `${path}/${key}`);
      return net.choice(schemas.map((one, i) => this.value(one, `${path}/${key}/${i}`, depth + 1)));
    }
    if (keys.length === 0) return this.#any();

    const implied = TYPES.filter((type) => KEYWORDS[type]!.some((key) => key in s));
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
    if (extra !== false && properties.length > 0) {
      this.#fail(path, `"additionalProperties" beside "properties" must be false`);
    }
    if (extra !== false) {
      const member = net.sequence([
        this.#string(),
        this.#colon(),
        this.value(extra, `${path}/additionalProperties`, depth + 1),
      ]);
      return this.#enclosed("{", "}", this.#separated(member, 0));
    }
    // Two tracks, before and after the first member: only the second begins members with a comma.
    const members: Piece = (from, to) => {
      let [none, some] = [from, net.node()];
      for (const [name, schema] of properties) {
        const [nextNone, nextSome] = [net.node(), net.node()];
        const member = net.sequence([
          net.text(JSON.stringify(name)),
          this.#colon(),
          this.value(schema, `${path}/properties/${name}`, depth + 1),
        ]);
        const shared = this.#once(member);
        shared(none, nextSome);
        net.sequence([this.#comma(), shared])(some, nextSome);
        if (!required.has(name)) {
          net.empty()(none, nextNone);
          net.empty()(some, nextSome);
        }
        [none, some] = [nextNone, nextSome];
      }
      net.empty()(none, to);
      net.empty()(some, to);
    };
    return this.#enclosed("{", "}", members);
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
      case "integer":
        return whole(16); // what a double holds exactly
      case "number": {
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
      if ("minLength" in s || "maxLength" in s) {
        this.#fail(path, '"pattern" beside lengths is not supported; write them as {m,n}');
      }
      if (typeof s.pattern !== "string") this.#fail(path, '"pattern" must be a text');
      return quoted(regex(net, s.pattern as string, (low, high) => this.#inString(low, high)));
    }
    const [low, high] = this.#counts(s.minLength, s.maxLength, path);
    return quoted(net.repeat(this.#character, low, high));
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
      const separated = items.flatMap((item, i) => (i === 0 ? [item] : [this.#comma(), item]));
      return this.#enclosed("[", "]", net.sequence(separated));
    }
    const item = this.value(s.items ?? true, `${path}/items`, depth + 1);
    const [low, high] = this.#counts(s.minItems, s.maxItems, path);
    return this.#enclosed("[", "]", this.#separated(item, low, high));
  }

  /** low … high items with commas between them. */
  #separated(item: Piece, low: number, high?: number): Piece {
    const net = this.#net;
    if (high === 0) return net.empty();
    const shared = this.#once(item);
    const rest = net.sequence([this.#comma(), shared]);
    const some = net.sequence([
      shared,
      net.repeat(rest, Math.max(0, low - 1), high === undefined ? undefined : high - 1),
    ]);
    return low === 0 ? net.optional(some) : some;
  }

  /** An opening and a closing sign around something, with white space inside. */
  #enclosed(open: string, close: string, inside: Piece): Piece {
    const net = this.#net;
    return net.sequence([net.text(open), this.#space, inside, this.#space, net.text(close)]);
  }

  #comma(): Piece {
    return this.#net.sequence([this.#space, this.#net.bytes(44), this.#space]);
  }

  #colon(): Piece {
    return this.#net.sequence([this.#space, this.#net.bytes(58), this.#space]);
  }

  /** Any JSON value. */
  #any(): Piece {
    return this.#rule("any", () =>
      this.#net.choice(
        TYPES.filter((t) => t !== "integer").map((type) => this.#typed(type, {}, "", 0)),
      ),
    );
  }

  #reference(ref: unknown, path: string, depth: number): Piece {
    if (typeof ref !== "string" || !/^#(\/|$)/.test(ref)) {
      this.#fail(path, `$ref ${JSON.stringify(ref)} is not of this schema; it must begin with #`);
    }
    const name = ref as string;
    return this.#rule(`ref ${name}`, () => {
      let found = this.#root;
      for (const part of name.split("/").slice(1)) {
        const key = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
        const inside = typeof found === "object" && found !== null && Object.hasOwn(found, key);
        found = inside ? (found as Record<string, unknown>)[key] : undefined;
      }
      if (found === undefined) this.#fail(path, `$ref ${name} leads nowhere`);
      return this.value(found, name, depth + 1);
    });
  }

  /** A piece that is written once, however often it is used. */
  #once(piece: Piece): Piece {
    const { id, define } = this.#net.rule();
    define(piece);
    return this.#net.call(id);
  }

  /** A rule by name, made at its first use; it may use itself. */
  #rule(name: string, make: () => Piece): Piece {
    const known = this.#rules.get(name);
    if (known !== undefined) return this.#net.call(known);
    const { id, define } = this.#net.rule();
    this.#rules.set(name, id);
    define(make());
    return this.#net.call(id);
  }

  /** Characters of a string's value, as JSON writes them: controls, quote and backslash escaped. */
  #inString(low: number, high: number): Piece {
    const net = this.#net;
    const pieces: Piece[] = [];
    let from = Math.max(low, 0x20);
    for (const special of [0x22, 0x5c]) {
      if (special < low || special > high) continue;
      if (from < special) pieces.push(net.characters(from, special - 1));
      from = special + 1;
      pieces.push(net.sequence([net.bytes(0x5c), net.bytes(special)]));
    }
    if (from <= high) pieces.push(net.characters(from, high));
    for (let code = low; code <= Math.min(high, 0x1f); code++) {
      pieces.push(net.text(JSON.stringify(String.fromCharCode(code)).slice(1, -1)));
    }
    return net.choice(pieces);
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
