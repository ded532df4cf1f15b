/**
 * Grammars as networks of nodes that read bytes: finite automata that may call each other. A rule is
 * a network with a start and one end; a call edge passes through a rule and goes on behind it, so
 * that nesting (JSON in JSON) needs no bound.
 */

export type Edge =
  | { readonly kind: "bytes"; readonly low: number; readonly high: number; readonly to: number }
  | { readonly kind: "empty"; readonly to: number }
  | { readonly kind: "call"; readonly rule: number; readonly to: number };

export interface Rule {
  readonly start: number;
  readonly end: number;
  /** What whoever wrote the grammar calls it. */
  readonly name: string | undefined;
}

/** Part of a network, from one node to another; it adds no edge into the first or out of the second. */
export type Piece = (from: number, to: number) => void;

/** More nodes than this are refused: a schema or pattern that asks for them is not meant well. */
const MAX_NODES = 200_000;

/** A text, schema or pattern that is no grammar; says what and where. */
export class GrammarError extends Error {
  override name = "GrammarError";
}

export class Network {
  readonly edges: Edge[][] = [];
  readonly rules: Rule[] = [];

  node(): number {
    if (this.edges.length >= MAX_NODES) {
      throw new GrammarError(`the grammar has more than ${MAX_NODES} states; make it simpler`);
    }
    return this.edges.push([]) - 1;
  }

  /** A new rule, and a function that says what it reads: it may call itself. */
  rule(name?: string): { id: number; define(piece: Piece): void } {
    const rule = { start: this.node(), end: this.node(), name };
    const id = this.rules.push(rule) - 1;
    return { id, define: (piece) => piece(rule.start, rule.end) };
  }

  bytes(low: number, high: number = low): Piece {
    return (from, to) => this.edges[from]!.push({ kind: "bytes", low, high, to });
  }

  empty(): Piece {
    return (from, to) => this.edges[from]!.push({ kind: "empty", to });
  }

  call(rule: number): Piece {
    return (from, to) => this.edges[from]!.push({ kind: "call", rule, to });
  }

  text(text: string): Piece {
    return this.sequence([...new TextEncoder().encode(text)].map((byte) => this.bytes(byte)));
  }

  sequence(pieces: readonly Piece[]): Piece {
    if (pieces.length === 0) return this.empty();
    return (from, to) => {
      let at = from;
      for (const [i, piece] of pieces.entries()) {
        const next = i === pieces.length - 1 ? to : this.node();
        piece(at, next);
        at = next;
      }
    };
  }

  choice(pieces: readonly Piece[]): Piece {
    return (from, to) => {
      for (const piece of pieces) piece(from, to);
    };
  }

  /** `low` to `high` times; without `high`, any number from `low`. */
  repeat(piece: Piece, low: number, high?: number): Piece {
    return (from, to) => {
      let at = from;
      for (let i = 0; i < low; i++) {
        const next = this.node();
        piece(at, next);
        at = next;
      }
      if (high === undefined) {
        // A node of its own: what else begins or ends here must not go round.
        const loop = this.node();
        this.empty()(at, loop);
        piece(loop, loop);
        this.empty()(loop, to);
        return;
      }
      for (let i = low; i < high; i++) {
        const next = this.node();
        this.empty()(at, to);
        piece(at, next);
        at = next;
      }
      this.empty()(at, to);
    };
  }

  optional(piece: Piece): Piece {
    return this.repeat(piece, 0, 1);
  }

  /** A character of the code points low … high, in UTF-8. Halves of surrogate pairs are none. */
  characters(low: number, high: number): Piece {
    const pieces: Piece[] = [];
    for (const [a, b] of [
      [low, Math.min(high, 0xd7ff)],
      [Math.max(low, 0xe000), high],
    ] as const) {
      // Lengths of 1 to 4 bytes.
      for (const [first, last] of [
        [0, 0x7f],
        [0x80, 0x7ff],
        [0x800, 0xffff],
        [0x10000, 0x10ffff],
      ] as const) {
        const [x, y] = [Math.max(a, first), Math.min(b, last)];
        if (x <= y) pieces.push(...this.#sameLength(x, y));
      }
    }
    return this.choice(pieces);
  }

  /** Ranges of bytes whose products are the characters x … y, all of one length in UTF-8. */
  #sameLength(x: number, y: number): Piece[] {
    const [a, b] = [utf8(x), utf8(y)];
    if (a.length === 1) return [this.bytes(a[0]!, b[0]!)];
    // Cut where the last six bits wrap, from the right, until first and last byte agree.
    for (let i = 1; i < a.length; i++) {
      const mask = 2 ** (6 * i) - 1;
      if ((x & ~mask) === (y & ~mask)) continue;
      if ((x & mask) !== 0) {
        return [...this.#sameLength(x, x | mask), ...this.#sameLength((x | mask) + 1, y)];
      }
      if ((y & mask) !== mask) {
        return [...this.#sameLength(x, (y & ~mask) - 1), ...this.#sameLength(y & ~mask, y)];
      }
    }
    return [this.sequence(a.map((byte, i) => this.bytes(byte, b[i]!)))];
  }
}

function utf8(codePoint: number): number[] {
  return [...new TextEncoder().encode(String.fromCodePoint(codePoint))];
}
