/**
 * The engine: requests come in at any time, are computed together, and give their tokens as they
 * come. One loop plans a step, runs it and hands out what was drawn; between steps it lets other
 * tasks in, so that requests and cancellations that came meanwhile count in the next one.
 */
import type { CacheDtype, ModelConfig, ModelParams } from "@dsv3/model";
import type { Tokenizer } from "@dsv3/tokenizer";
import { BLOCK_TOKENS } from "./blocks.ts";
import { type Choice, Generation, type Usage } from "./generation.ts";
import { type Format, Grammar, type TokenTree, tokenTree } from "./grammar/grammar.ts";
import { GrammarError } from "./grammar/network.ts";
import { Output } from "./output.ts";
import { checkRequest, type GenerationRequest, QueueFullError, RequestError } from "./request.ts";
import { type Progress, Runner } from "./runner.ts";
import { Scheduler } from "./scheduler.ts";
import type { Drawn } from "./scores.ts";
import { Sequence } from "./sequence.ts";

export interface EngineOptions {
  /** The weights; they stay the caller's, and must live as long as the engine, or until `setParams`. */
  readonly params: ModelParams;
  readonly config: ModelConfig;
  /** Turns tokens into text, and finds stop strings; without one, answers are token ids alone. */
  readonly tokenizer?: Tokenizer;
  /** Most tokens of a prompt and its answer; the model's context unless given. */
  readonly maxContext?: number;
  /** Tokens that the latent cache holds, in blocks of 64; four contexts unless given. */
  readonly cacheTokens?: number;
  /** Answers computed at once; 16 unless given. */
  readonly maxRunning?: number;
  /** Answers that may wait; 256 unless given. One more is refused with a QueueFullError. */
  readonly maxQueued?: number;
  /** Prompt tokens computed in one step, between two tokens of the other answers; 256 unless given. */
  readonly maxPrefill?: number;
  /** What activations are computed in; f32 unless given. */
  readonly computeDtype?: "f32" | "bf16";
  /**
   * What the cache is kept in; `computeDtype` unless given. `fp8` keeps latents in E4M3 with scales and
   * rotary keys in bf16: the least memory, but attention decodes it first, which takes time.
   */
  readonly cacheDtype?: CacheDtype;
  /**
   * Logits are the same to the last bit alone and in every batch (true unless given), as far as the
   * backend computes a row alike in all products of 6 rows and more: backend-wasm does. Without it,
   * one or two answers alone come faster.
   */
  readonly batchInvariant?: boolean;
  /**
   * The model's MTP modules guess the tokens after the next, which the next step checks (false unless
   * given). Answers stay the same, to the last bit; right guesses make them faster.
   */
  readonly speculate?: boolean;
  /**
   * Tokens that are guessed with `speculate`, each by a module of its own as far as there are as many; as
   * many as there are modules unless given.
   */
  readonly drafts?: number;
  /** Recounts all cache blocks at every step, and fails if one was lost. For tests. */
  readonly checkBlocks?: boolean;
}

export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  /** Answers of which so much is unread that they are not computed further until it is read. */
  readonly paused: number;
  readonly blocks: number;
  /** Blocks that hold tokens of running answers. */
  readonly usedBlocks: number;
  readonly steps: number;
  readonly preemptions: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  /** Tokens looked up in the prefix cache, and found. */
  readonly prefixQueries: number;
  readonly prefixHits: number;
  /** Tokens guessed by the MTP modules, and guessed right. */
  readonly drafts: number;
  readonly acceptedDrafts: number;
  /** The same of the first guess ahead, the second …; empty without speculation. */
  readonly draftDepths: readonly { readonly drafts: number; readonly accepted: number }[];
  /** Tokens that a step gave an answer in the mean, where it checked guesses; 0 if none has. */
  readonly acceptanceLength: number;
}

const MAX_DRAFTS = 8;

/** Formats whose automata and masks are kept. */
const MAX_GRAMMARS = 32;

export class Engine {
  readonly maxContext: number;
  readonly #options: EngineOptions;
  readonly #maxQueued: number;
  readonly #scheduler: Scheduler;
  readonly #runner: Runner;
  readonly #outputs = new Map<Sequence, Output>();
  /** Sequences that nobody waits for any more; they go between two steps, never within one. */
  readonly #cancelled = new Set<Sequence>();
  readonly #grammars = new Map<string, Grammar>();
  #tree: TokenTree | null = null;
  #arrivals = 0;
  #steps = 0;
  #promptTokens = 0;
  #generatedTokens = 0;
  /** Guesses by how far ahead they are. */
  readonly #depths: { drafts: number; accepted: number }[];
  #loop: Promise<void> | null = null;
  #failure: Error | null = null;
  /** Ends the sleep of a loop that has nothing to do. */
  #wake: (() => void) | null = null;

  /** @throws RangeError for sizes that cannot be */
  constructor(options: EngineOptions) {
    const { config, computeDtype = "f32", cacheDtype = computeDtype } = options;
    const whole = (name: string, value: number): number => {
      if (Number.isSafeInteger(value) && value > 0) return value;
      throw new RangeError(`${name} must be a whole number from 1, is ${value}`);
    };
    const { maxContext = config.maxPositionEmbeddings } = options;
    this.maxContext = whole("maxContext", maxContext);
    if (maxContext > config.maxPositionEmbeddings) {
      const most = config.maxPositionEmbeddings;
      throw new RangeError(`maxContext is ${maxContext}, but the model's context ends at ${most}`);
    }
    const { cacheTokens = 4 * maxContext } = options;
    if (whole("cacheTokens", cacheTokens) < maxContext) {
      throw new RangeError(
        `cacheTokens is ${cacheTokens}, too few for one context of ${maxContext}; raise it or lower maxContext`,
      );
    }
    const blocks = Math.ceil(cacheTokens / BLOCK_TOKENS);
    this.#options = options;
    this.#maxQueued = whole("maxQueued", options.maxQueued ?? 256);
    this.#scheduler = new Scheduler({
      blocks,
      maxRunning: whole("maxRunning", options.maxRunning ?? 16),
      maxPrefill: whole("maxPrefill", options.maxPrefill ?? 256),
    });
    const { params, batchInvariant = true, speculate = false } = options;
    if (speculate && params.mtp.length === 0) {
      throw new RangeError(
        "speculate needs a model with an MTP module; load it with its own, or leave speculate out",
      );
    }
    const ahead = speculate ? whole("drafts", options.drafts ?? params.mtp.length) : 0;
    if (ahead > MAX_DRAFTS) {
      throw new RangeError(`drafts is ${ahead}; more than ${MAX_DRAFTS} guesses are never right`);
    }
    this.#depths = Array.from({ length: ahead }, () => ({ drafts: 0, accepted: 0 }));
    const sizes = { blocks, maxContext, computeDtype, cacheDtype };
    this.#runner = new Runner({ params, config, batchInvariant, ahead, ...sizes });
  }

  /**
   * Queues a request. Its tokens come by iterating over the result.
   * @throws RequestError for a request that cannot be served, QueueFullError if there is no room;
   * the signal's reason if it is aborted already
   */
  submit(request: GenerationRequest): Generation {
    if (this.#failure) throw new Error("the engine has failed", { cause: this.#failure });
    const { config, tokenizer } = this.#options;
    const limits = { config, maxContext: this.maxContext, hasTokenizer: tokenizer !== undefined };
    checkRequest(request, limits);
    request.signal?.throwIfAborted();
    const { n = 1, prompt, seed = randomSeed() } = request;
    const grammar = request.format && this.#grammar(request.format);
    if (this.#scheduler.waiting + n > this.#maxQueued) throw new QueueFullError(this.#maxQueued);

    const room = this.maxContext - prompt.length;
    const maxTokens = Math.min(room, request.maxTokens ?? room);
    if (maxTokens === 0) {
      throw new RequestError("prompt", `fills the whole context of ${this.maxContext} tokens`);
    }
    const { signal } = request;
    const sequences: Sequence[] = [];
    const onEnd = () => {
      signal?.removeEventListener("abort", cancel);
      for (const s of sequences) if (this.#outputs.has(s)) this.#cancelled.add(s);
      this.#wake?.();
    };
    const generation = new Generation(n, prompt.length, onEnd, () => this.#wake?.());
    const cancel = () => generation.fail(signal!.reason);
    signal?.addEventListener("abort", cancel, { once: true });
    for (let choice = 0; choice < n; choice++) {
      const sequence = new Sequence(request, choice, seed, this.#arrivals++);
      if (grammar) sequence.guide(grammar, maxTokens);
      const output = new Output(generation, request, maxTokens, config, tokenizer);
      this.#outputs.set(sequence, output);
      this.#scheduler.add(sequence);
      sequences.push(sequence);
    }
    this.#promptTokens += prompt.length;
    this.#loop ??= this.#serve();
    this.#wake?.();
    return generation;
  }

  /** All answers to a request, whole. */
  async generate(request: GenerationRequest): Promise<{ choices: Choice[]; usage: Usage }> {
    return this.submit(request).collect();
  }

  /**
   * Weights of the same shapes instead of the old ones, as after a step of reinforcement learning.
   * The prefix cache is emptied; programs are kept. The old weights are not read any more, and may be
   * gone already.
   * @throws Error while answers run or wait, or if a name, shape or dtype differs; nothing has changed then
   */
  async setParams(params: ModelParams): Promise<void> {
    if (this.#failure) throw new Error("the engine has failed", { cause: this.#failure });
    // What was cancelled, or ended just now, may still be in its last step.
    do {
      const busy = this.#outputs.size - this.#cancelled.size;
      if (busy > 0) throw new Error(`${busy} answers run or wait; set weights when none does`);
      await this.#loop;
    } while (this.#loop);
    this.#runner.setParams(params);
    this.#scheduler.pool.forget();
  }

  /** Why every request fails from now on; null as long as the engine works. */
  get failure(): Error | null {
    return this.#failure;
  }

  stats(): EngineStats {
    const { waiting, paused, running, pool } = this.#scheduler;
    const { preemptions, prefixQueries, prefixHits } = this.#scheduler;
    const sum = (what: "drafts" | "accepted") => this.#depths.reduce((n, d) => n + d[what], 0);
    // An answer that is checked has a first guess.
    const checks = this.#depths[0]?.drafts ?? 0;
    return {
      running,
      waiting,
      paused,
      blocks: pool.size,
      usedBlocks: pool.used,
      steps: this.#steps,
      preemptions,
      promptTokens: this.#promptTokens,
      generatedTokens: this.#generatedTokens,
      prefixQueries,
      prefixHits,
      drafts: sum("drafts"),
      acceptedDrafts: sum("accepted"),
      draftDepths: this.#depths.map((depth) => ({ ...depth })),
      acceptanceLength: checks === 0 ? 0 : 1 + sum("accepted") / checks,
    };
  }

  /** Ends every request with an error, waits for the step at work, and frees cache and programs. */
  async dispose(): Promise<void> {
    this.#fail(new Error("the engine was disposed"));
    await this.#loop;
    this.#runner.dispose();
  }

  async #serve(): Promise<void> {
    try {
      // The first step waits for requests that are submitted together with this one.
      await nextTask();
      while (this.#outputs.size > 0) {
        await this.#step();
        this.#dropCancelled();
        await nextTask();
        await this.#wanted();
        this.#dropCancelled();
      }
    } catch (error) {
      this.#fail(error as Error);
    } finally {
      this.#loop = null;
    }
  }

  /** Waits as long as every answer waits for its reader. */
  async #wanted(): Promise<void> {
    const idle = () => {
      for (const [sequence, { generation }] of this.#outputs) sequence.paused = generation.behind;
      const { running, waiting, paused } = this.#scheduler;
      return running + waiting === 0 && paused > 0 && this.#cancelled.size === 0;
    };
    while (idle()) await new Promise<void>((resolve) => (this.#wake = resolve));
    this.#wake = null;
  }

  async #step(): Promise<void> {
    const { prefill, decode } = this.#scheduler.plan();
    for (const chunk of prefill) {
      const progress = await this.#runner.prefill(chunk);
      if (progress) this.#advance(chunk.sequence, progress);
    }
    if (decode.length > 0) {
      const progress = await this.#runner.decode(decode);
      for (const [i, sequence] of decode.entries()) this.#advance(sequence, progress[i]!);
    }
    this.#steps++;
    if (this.#options.checkBlocks) this.#scheduler.check();
  }

  /** Takes what a step gave a sequence, as far as its answer goes on. */
  #advance(sequence: Sequence, { drawn, drafts }: Progress): void {
    for (const depth of this.#depths.slice(0, sequence.drafts.length)) depth.drafts++;
    for (const [i, one] of drawn.entries()) {
      const output = this.#outputs.get(sequence);
      if (output === undefined || this.#cancelled.has(sequence)) return;
      if (i > 0) {
        this.#depths[i - 1]!.accepted++;
        this.#scheduler.accept(sequence);
      }
      this.#give(sequence, output, one);
    }
    const output = this.#outputs.get(sequence);
    // Guesses past the answer's end would need room that nobody set aside.
    const room = output ? output.maxTokens - sequence.generatedCount - 1 : 0;
    sequence.drafts = drafts.slice(0, Math.max(0, room));
  }

  /** Takes a token that was drawn for a sequence, tells its reader, and ends the answer if it does. */
  #give(sequence: Sequence, output: Output, drawn: Drawn): void {
    sequence.append(drawn.token);
    this.#generatedTokens++;
    const { choice, generatedCount, complete } = sequence;
    const added = output.take(drawn.token, generatedCount, complete);
    if (added.finishReason !== null) this.#drop(sequence);
    output.generation.give({ choice, ...drawn, ...added }, sequence);
  }

  /** The grammar of a format; those used last are kept. */
  #grammar(format: Format): Grammar {
    const { config, tokenizer } = this.#options;
    const key = JSON.stringify(format);
    let grammar = this.#grammars.get(key);
    if (grammar === undefined) {
      try {
        this.#tree ??= tokenTree(tokenizer!);
        grammar = new Grammar(format, this.#tree, config.eosTokenIds, config.vocabSize);
      } catch (error) {
        if (error instanceof GrammarError) throw new RequestError("format", error.message);
        throw error;
      }
    }
    this.#grammars.delete(key);
    this.#grammars.set(key, grammar);
    if (this.#grammars.size > MAX_GRAMMARS) {
      this.#grammars.delete(this.#grammars.keys().next().value!);
    }
    return grammar;
  }

  #drop(sequence: Sequence): void {
    if (this.#outputs.delete(sequence)) this.#scheduler.remove(sequence);
  }

  #dropCancelled(): void {
    for (const sequence of this.#cancelled) this.#drop(sequence);
    this.#cancelled.clear();
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const [sequence, { generation }] of this.#outputs) {
      this.#drop(sequence);
      generation.fail(error);
    }
    this.#wake?.();
  }
}

function randomSeed(): number {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2)) as unknown as [number, number];
  return (high >>> 11) * 2 ** 32 + low;
}

/** Lets every task in that waits already: input, timers, cancellations. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") setImmediate(resolve);
    else setTimeout(resolve);
  });
}
