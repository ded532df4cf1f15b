/** One answer in the making: its tokens, and the blocks that hold the latents of those computed. */
import { BLOCK_TOKENS, type BlockPool, blockKey, rootKey } from "./blocks.ts";
import type { State } from "./grammar/automaton.ts";
import type { Grammar } from "./grammar/grammar.ts";
import type { GenerationRequest } from "./request.ts";
import type { Drawn } from "./scores.ts";

export class Sequence {
  readonly request: GenerationRequest;
  /** Which of the request's n answers this is. */
  readonly choice: number;
  /** The request's seed, or the one that was drawn for it. */
  readonly seed: number;
  /** Order of arrival, among requests of the same priority. */
  readonly arrival: number;
  readonly promptLength: number;
  /** Prompt and answer. */
  readonly tokens: number[];
  /** Times each token was generated, for the penalties. */
  readonly generated: Map<number, number> = new Map();
  /** Blocks, in the order of the tokens. */
  readonly blocks: number[] = [];
  /** Leading tokens whose latents are in the blocks, or will be when this step's work is done. */
  computed = 0;
  /** Tokens of the prompt that were found in the cache when it was computed first. */
  cachedTokens = 0;
  /** Whether its reader is behind, so that it is not to be computed for now. */
  paused = false;
  /** Times that it gave its blocks back before it was whole. */
  preemptions = 0;
  /** Log-probabilities of the prompt's tokens, as far as they are known; null: nobody asks for them. */
  readonly scores: (Drawn | null)[] | null;
  /** Guesses at the next tokens, which are computed along with the last one. */
  drafts: readonly number[] = [];
  /** Keys of the leading full blocks, as far as they are known; they do not change any more. */
  readonly #keys: string[] = [];
  readonly #root: string;
  #guide: { grammar: Grammar; maxTokens: number; state: State | null } | null = null;

  constructor(request: GenerationRequest, choice: number, seed: number, arrival: number) {
    this.request = request;
    this.choice = choice;
    this.seed = seed;
    this.arrival = arrival;
    this.tokens = Array.from(request.prompt);
    this.promptLength = this.tokens.length;
    const scored = request.promptLogprobs !== undefined && choice === 0;
    this.scores = scored ? new Array<null>(this.promptLength).fill(null) : null;
    this.#root = rootKey(request.cacheSalt ?? "");
  }

  /** Binds the answer to a grammar, of which it must be a whole text after `maxTokens` at most. */
  guide(grammar: Grammar, maxTokens: number): void {
    this.#guide = { grammar, maxTokens, state: grammar.start };
  }

  /** Whether the answer is a whole text of its grammar, to which nothing can be added. */
  get complete(): boolean {
    return this.#guide?.state != null && this.#guide.grammar.complete(this.#guide.state);
  }

  /** Bits of the tokens that may come after the answer so far and then `after`; null: all may. */
  mask(after: readonly number[]): Int32Array | null {
    if (this.#guide === null) return null;
    const { grammar, maxTokens } = this.#guide;
    let { state } = this.#guide;
    for (const token of after) state = state && grammar.after(state, token);
    // After a draft that may not come nothing is drawn that counts.
    if (state === null) return null;
    return grammar.mask(state, maxTokens - this.generatedCount - after.length);
  }

  get priority(): number {
    return this.request.priority ?? 0;
  }

  get generatedCount(): number {
    return this.tokens.length - this.promptLength;
  }

  /** Whether all but the last token are computed: the next step appends a token. */
  get decoding(): boolean {
    return this.generatedCount > 0 && this.computed === this.tokens.length - 1;
  }

  /** Tokens that are there after the next step, if all drafts are right. */
  get wanted(): number {
    return this.tokens.length + this.drafts.length;
  }

  append(token: number): void {
    this.tokens.push(token);
    this.generated.set(token, (this.generated.get(token) ?? 0) + 1);
    const guide = this.#guide;
    if (guide?.state) guide.state = guide.grammar.after(guide.state, token);
  }

  /** Takes the cached blocks that the tokens begin with, but leaves one token to compute. */
  reuse(pool: BlockPool): void {
    // Logits are not kept: whoever asks for the prompt's has it computed, from the token before on.
    const end = this.scores ? (this.request.promptLogprobsFrom ?? 1) : this.tokens.length;
    const most = Math.floor((end - 1) / BLOCK_TOKENS);
    for (let i = 0; i < most; i++) {
      const id = pool.find(this.#key(i), this.#before(i), this.#blockTokens(i));
      if (id === undefined) break;
      pool.share(id);
      this.blocks.push(id);
    }
    this.computed = this.blocks.length * BLOCK_TOKENS;
  }

  /** Blocks still missing to hold the first `length` tokens. */
  missing(length: number): number {
    return Math.max(0, Math.ceil(length / BLOCK_TOKENS) - this.blocks.length);
  }

  /** Takes the blocks that are missing; the pool must have them. */
  extend(pool: BlockPool, length: number): void {
    for (let n = this.missing(length); n > 0; n--) this.blocks.push(pool.take()!);
  }

  /** Says that tokens before `end` are computed, and lets others find the blocks that became full. */
  advance(pool: BlockPool, end: number): void {
    const from = Math.floor(this.computed / BLOCK_TOKENS);
    this.computed = end;
    for (let i = from; (i + 1) * BLOCK_TOKENS <= end; i++) {
      pool.publish(this.blocks[i]!, this.#key(i), this.#before(i), this.#blockTokens(i));
    }
  }

  /** Gives all blocks back: at the end, or to compute them again later. */
  release(pool: BlockPool): void {
    pool.release(this.blocks);
    this.blocks.length = 0;
    this.computed = 0;
    this.drafts = [];
  }

  #blockTokens(i: number): Uint32Array {
    return Uint32Array.from(this.tokens.slice(i * BLOCK_TOKENS, (i + 1) * BLOCK_TOKENS));
  }

  #before(i: number): string {
    return i === 0 ? this.#root : this.#key(i - 1);
  }

  #key(i: number): string {
    for (let k = this.#keys.length; k <= i; k++) {
      this.#keys.push(blockKey(this.#before(k), this.#blockTokens(k)));
    }
    return this.#keys[i]!;
  }
}
