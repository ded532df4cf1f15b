/** What JSON is written with, as pieces of a grammar: strings, white space, signs between values. */
import type { Network, Piece } from "./network.ts";
import { inverse } from "./scanner.ts";

const MAX_WHITE_SPACE = 20;

export class JsonText {
  readonly #net: Network;
  /** Rules by what they stand for. */
  readonly #rules = new Map<string, number>();
  /** A little white space, or none. */
  readonly space: Piece;
  /** A character of a string, escaped in any way that JSON has. */
  readonly character: Piece;

  constructor(net: Network) {
    this.#net = net;
    const blank = net.choice([9, 10, 13, 32].map((byte) => net.bytes(byte)));
    this.space = this.rule("space", () => net.repeat(blank, 0, MAX_WHITE_SPACE));
    this.character = this.rule("character", () => {
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
      return net.choice([this.inString(0, 0x10ffff), escaped]);
    });
  }

  /** A rule by name, made at its first use; it may use itself. */
  rule(name: string, make: () => Piece): Piece {
    const known = this.#rules.get(name);
    if (known !== undefined) return this.#net.call(known);
    const { id, define } = this.#net.rule();
    this.#rules.set(name, id);
    define(make());
    return this.#net.call(id);
  }

  /** A piece that is written once, however often it is used. */
  once(piece: Piece): Piece {
    const { id, define } = this.#net.rule();
    define(piece);
    return this.#net.call(id);
  }

  /** An opening and a closing sign around something, with white space inside. */
  enclosed(open: string, close: string, inside: Piece): Piece {
    const net = this.#net;
    return net.sequence([net.text(open), this.space, inside, this.space, net.text(close)]);
  }

  comma(): Piece {
    return this.#net.sequence([this.space, this.#net.bytes(44), this.space]);
  }

  colon(): Piece {
    return this.#net.sequence([this.space, this.#net.bytes(58), this.space]);
  }

  /** low … high items with commas between them. */
  separated(item: Piece, low: number, high?: number): Piece {
    const net = this.#net;
    if (high === 0) return net.empty();
    const shared = this.once(item);
    const rest = net.sequence([this.comma(), shared]);
    const some = net.sequence([
      shared,
      net.repeat(rest, Math.max(0, low - 1), high === undefined ? undefined : high - 1),
    ]);
    return low === 0 ? net.optional(some) : some;
  }

  /** Characters of a string's value, as JSON writes them: controls, quote and backslash escaped. */
  inString(low: number, high: number): Piece {
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

  /** A name that is none of these properties', without the escapes that would hide one. */
  otherName(properties: readonly (readonly [string, unknown])[]): Piece {
    const net = this.#net;
    const free = this.once(net.repeat(this.inString(0, 0x10ffff), 0));
    const unlike = (names: readonly string[]): Piece => {
      const pieces = names.includes("") ? [] : [net.empty()];
      const next = new Map<number, string[]>();
      for (const name of names.filter((n) => n !== "")) {
        const code = name.codePointAt(0)!;
        const rest = name.slice(String.fromCodePoint(code).length);
        next.set(code, [...(next.get(code) ?? []), rest]);
      }
      for (const [code, rest] of next) {
        pieces.push(net.sequence([this.inString(code, code), unlike(rest)]));
      }
      for (const [low, high] of inverse([...next.keys()].map((code) => [code, code] as const))) {
        pieces.push(net.sequence([this.inString(low, high), free]));
      }
      return net.choice(pieces);
    };
    return net.sequence([net.bytes(34), unlike(properties.map(([name]) => name)), net.bytes(34)]);
  }
}
