/**
 * The latent cache in blocks of 64 tokens. A block belongs to every sequence that refers to it, and
 * is free once none does; what it holds stays findable by content until the block is needed again.
 *
 * A full block's key is SHA-256(key of the block before, its tokens); before the first block stands
 * the digest of the owner's salt. So a key stands for the whole prefix, and requests of different
 * salts never find each other's blocks. On a hit, tokens and the key before are compared too.
 */
import { sha256 } from "./sha256.ts";

/** Tokens in a block. */
export const BLOCK_TOKENS = 64;

/** The content of a full block. */
interface Content {
  readonly key: string;
  readonly before: string;
  readonly tokens: Uint32Array;
}

interface Block {
  references: number;
  content: Content | null;
}

/** The key before the first block of sequences that may share with each other. */
export function rootKey(salt: string): string {
  return text(sha256(new TextEncoder().encode(salt)));
}

/** The key of a block of `tokens` after the block of key `before`. */
export function blockKey(before: string, tokens: Uint32Array): string {
  const message = new Uint8Array(32 + 4 * tokens.length);
  for (let i = 0; i < 32; i++) message[i] = before.charCodeAt(i);
  const view = new DataView(message.buffer);
  for (const [i, token] of tokens.entries()) view.setUint32(32 + 4 * i, token, true);
  return text(sha256(message));
}

/** A digest as a string of 32 characters, which maps take as a key. */
function text(digest: Uint8Array): string {
  return String.fromCharCode(...digest);
}

export class BlockPool {
  readonly #blocks: Block[];
  /** Free blocks without content, the next one to be used last. */
  readonly #blank: number[] = [];
  /** Free blocks with content, the least recently used first. */
  readonly #kept = new Set<number>();
  readonly #byKey = new Map<string, number>();

  constructor(size: number) {
    this.#blocks = Array.from({ length: size }, () => ({ references: 0, content: null }));
    for (let id = size - 1; id >= 0; id--) this.#blank.push(id);
  }

  get size(): number {
    return this.#blocks.length;
  }

  /** Blocks that no sequence refers to, with or without content. */
  get free(): number {
    return this.#blank.length + this.#kept.size;
  }

  get used(): number {
    return this.size - this.free;
  }

  /** A block for one sequence, forgetting the content that was unused the longest; null: none free. */
  take(): number | null {
    let id = this.#blank.pop();
    if (id === undefined) {
      id = this.#kept.values().next().value;
      if (id === undefined) return null;
      this.#kept.delete(id);
      const block = this.#blocks[id]!;
      this.#byKey.delete(block.content!.key);
      block.content = null;
    }
    this.#blocks[id]!.references = 1;
    return id;
  }

  /** One more sequence refers to a block that {@link find} gave. */
  share(id: number): void {
    const block = this.#blocks[id]!;
    if (block.references++ === 0) this.#kept.delete(id);
  }

  /** A sequence lets go of its blocks. The last ones are forgotten first: fewer begin so. */
  release(ids: readonly number[]): void {
    for (const id of ids.toReversed()) {
      const block = this.#blocks[id]!;
      if (block.references === 0) throw new Error(`block ${id} was released twice`);
      if (--block.references > 0) continue;
      if (block.content === null) this.#blank.push(id);
      else this.#kept.add(id);
    }
  }

  /** The block that holds these tokens after the block of key `before`. */
  find(key: string, before: string, tokens: Uint32Array): number | undefined {
    const id = this.#byKey.get(key);
    if (id === undefined) return undefined;
    const content = this.#blocks[id]!.content!;
    const same = content.before === before && content.tokens.every((t, i) => t === tokens[i]);
    return same && content.tokens.length === tokens.length ? id : undefined;
  }

  /** Makes a full block findable. Of two with the same content the first stays the one that is found. */
  publish(id: number, key: string, before: string, tokens: Uint32Array): void {
    const block = this.#blocks[id]!;
    if (block.content !== null || this.#byKey.has(key)) return;
    block.content = { key, before, tokens };
    this.#byKey.set(key, id);
  }

  /** Forgets the content of all blocks: they have to be computed again. */
  forget(): void {
    this.#byKey.clear();
    for (const block of this.#blocks) block.content = null;
    this.#blank.push(...this.#kept);
    this.#kept.clear();
  }

  /**
   * Counts everything again: `held` are the blocks of every sequence there is.
   * @throws Error for a block that leaked, was lost, or is both free and in use
   */
  check(held: Iterable<readonly number[]>): void {
    const counts = new Array<number>(this.size).fill(0);
    for (const ids of held) for (const id of ids) counts[id]!++;
    const blank = new Set(this.#blank);
    if (blank.size !== this.#blank.length) throw new Error("a free block is listed twice");
    for (const [id, { references, content }] of this.#blocks.entries()) {
      const fail = (why: string): never => {
        throw new Error(`block accounting: block ${id} ${why}`);
      };
      if (references !== counts[id]) fail(`has ${references} references, but ${counts[id]} users`);
      if (blank.has(id) !== (references === 0 && content === null))
        fail("is wrongly listed as free");
      if (this.#kept.has(id) !== (references === 0 && content !== null)) fail("is wrongly kept");
      if (content !== null && this.#byKey.get(content.key) !== id) fail("cannot be found");
    }
    const published = this.#blocks.filter(({ content }) => content !== null).length;
    if (published !== this.#byKey.size) throw new Error("block accounting: a key leads nowhere");
  }
}
