/**
 * The models that are served: loaded when first asked for, shared by all who ask, and unloaded when
 * nobody has for a while, or when another needs their room.
 */
import type { Engine, EngineStats } from "@dsv3/serve";
import type { Tokenizer } from "@dsv3/tokenizer";
import type { Embedder } from "./embedder.ts";
import { ApiError } from "./errors.ts";
import { Metrics } from "./metrics.ts";
import type { Log } from "./observe.ts";

/** A model in memory. */
export interface LoadedModel {
  readonly engine: Engine;
  readonly tokenizer: Tokenizer;
  /** Without one, `/v1/embeddings` refuses the model. */
  readonly embedder?: Embedder;
  /** Frees all of it. */
  dispose(): Promise<void>;
}

/** A model that can be had. */
export interface ModelSource {
  /** The name that clients call it by. */
  readonly name: string;
  /** Tokens of prompt and answer together, if that is known before it is loaded. */
  readonly maxContext?: number;
  /** Memory that it takes, weights and cache. */
  readonly bytes?: number;
  /** Called again after the model was unloaded, or when the load before failed. */
  load(): Promise<LoadedModel>;
}

export interface ModelsOptions {
  /** Models in memory at once; any number unless given. */
  readonly maxLoaded?: number;
  /** Bytes of all models in memory; any number unless given. A model alone may take more. */
  readonly maxBytes?: number;
  /** A model that nobody has used for so many milliseconds is unloaded; never unless given. */
  readonly idleTimeout?: number;
  /** Requests that may wait for a model to be loaded; 256 unless given. */
  readonly maxWaiting?: number;
  /** Told of what is loaded and unloaded. */
  readonly log?: Log;
}

export interface ModelState {
  readonly name: string;
  readonly maxContext: number | null;
  readonly loaded: boolean;
  readonly metrics: Metrics;
  /** The engine's own counts, null while there is none. */
  readonly stats: EngineStats | null;
}

/** The use of a model, which stays in memory until `release` is called. */
export interface Lease {
  readonly name: string;
  readonly model: LoadedModel;
  readonly metrics: Metrics;
  /** Once is enough; more does nothing. */
  release(): void;
}

interface Entry {
  readonly source: ModelSource;
  readonly metrics: Metrics;
  model: LoadedModel | null;
  loading: Promise<void> | null;
  /** Set while the model waits for its users to end, and is unloaded. */
  leaving: Promise<void> | null;
  /** Requests that use the model, or will once it is loaded. */
  users: number;
  usedAt: number;
  /** Called when the last user is gone. */
  whenUnused: (() => void) | null;
  idle: NodeJS.Timeout | undefined;
  failure: { readonly error: Error; readonly at: number } | null;
}

/** A load that failed is not tried again before: loads may take long, and clients try again at once. */
const RETRY_MS = 5000;

export class Models {
  readonly #entries = new Map<string, Entry>();
  readonly #options: ModelsOptions;
  /** Loads and unloads happen one after another, in the order they were asked for. */
  #turn: Promise<void> = Promise.resolve();
  #waiting = 0;
  #disposed = false;

  /** @throws RangeError for two of one name */
  constructor(sources: readonly ModelSource[], options: ModelsOptions = {}) {
    for (const source of sources) {
      if (this.#entries.has(source.name)) {
        throw new RangeError(`models: two are called "${source.name}"; names must differ`);
      }
      this.#entries.set(source.name, {
        source,
        metrics: new Metrics(),
        model: null,
        loading: null,
        leaving: null,
        users: 0,
        usedAt: 0,
        whenUnused: null,
        idle: undefined,
        failure: null,
      });
    }
    this.#options = options;
  }

  /** All models, in the order that they were given in. */
  list(): ModelState[] {
    return Array.from(this.#entries.values(), stateOf);
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /**
   * The use of a model, after loading it if need be. Who gives up waiting does not stop the load.
   * @throws ApiError 404 for another name, 429 if too many wait, 503 if the load fails; the signal's reason
   */
  async acquire(name: string, signal?: AbortSignal): Promise<Lease> {
    const entry = this.#entry(name);
    if (this.#disposed) throw new Error("the models were disposed");
    // Users that come while a model leaves do not keep it: they wait for it to come again.
    while (entry.leaving) await this.#patiently(entry.leaving, signal);
    entry.users++;
    clearTimeout(entry.idle);
    try {
      // With a failed engine all its users have failed too: nobody is left to wait for.
      if (entry.model?.engine.failure) this.#later(this.#taken(entry));
      if (!entry.model) await this.#patiently(this.#loaded(entry), signal);
    } catch (error) {
      this.#release(entry);
      throw error;
    }
    let released = false;
    return {
      name,
      model: entry.model!,
      metrics: entry.metrics,
      release: () => {
        if (!released) this.#release(entry);
        released = true;
      },
    };
  }

  /** Unloads all models; requests that still use them fail. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    await this.#turn;
    for (const entry of this.#entries.values()) {
      clearTimeout(entry.idle);
      await this.#taken(entry)();
    }
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry !== undefined) return entry;
    throw modelNotFound(name, [...this.#entries.keys()]);
  }

  /** Waits for something that goes on if the waiter gives up. */
  async #patiently(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
    // Nobody may be left to hear of its failure.
    promise.catch(() => {});
    const { maxWaiting = 256 } = this.#options;
    if (this.#waiting >= maxWaiting) {
      throw new ApiError(429, `${maxWaiting} requests wait for models to be loaded already`, {
        type: "rate_limit_error",
        code: "rate_limit_exceeded",
      });
    }
    this.#waiting++;
    try {
      signal?.throwIfAborted();
      if (!signal) return await promise;
      await new Promise<void>((resolve, reject) => {
        const giveUp = () => reject(signal.reason);
        signal.addEventListener("abort", giveUp, { once: true });
        promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", giveUp));
      });
    } finally {
      this.#waiting--;
    }
  }

  /** One load, however many ask for it. */
  #loaded(entry: Entry): Promise<void> {
    entry.loading ??= this.#inTurn(() => this.#load(entry)).finally(() => {
      entry.loading = null;
    });
    return entry.loading;
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  /** The same, for what nobody waits for. */
  #later(work: () => Promise<void>): void {
    this.#inTurn(work).catch((err) => {
      this.#options.log?.error({ err }, "a model could not be unloaded");
    });
  }

  async #load(entry: Entry): Promise<void> {
    const { source, failure } = entry;
    if (failure && performance.now() - failure.at < RETRY_MS) throw failure.error;
    await this.#makeRoom(source.bytes ?? 0);
    const began = performance.now();
    try {
      const model = await source.load();
      if (model.engine.failure) throw model.engine.failure;
      entry.model = model;
      entry.failure = null;
      const ms = Math.round(performance.now() - began);
      this.#options.log?.info({ model: source.name, ms }, "model loaded");
    } catch (cause) {
      const error = new ApiError(503, `the model "${source.name}" could not be loaded`, {
        type: "server_error",
        code: "model_load_failed",
        cause,
      });
      entry.failure = { error, at: performance.now() };
      throw error;
    }
  }

  /** Unloads models until another of so many bytes has its place: the unused first, then the rest. */
  async #makeRoom(bytes: number): Promise<void> {
    const { maxLoaded = Infinity, maxBytes = Infinity } = this.#options;
    while (true) {
      const loaded = [...this.#entries.values()].filter(({ model }) => model !== null);
      const used = loaded.reduce((sum, { source }) => sum + (source.bytes ?? 0), 0);
      if (loaded.length === 0) return;
      if (loaded.length < maxLoaded && used + bytes <= maxBytes) return;
      loaded.sort((a, b) => Math.sign(a.users) - Math.sign(b.users) || a.usedAt - b.usedAt);
      await this.#leave(loaded[0]!);
    }
  }

  /** Unloads a model once its users have ended. */
  async #leave(entry: Entry): Promise<void> {
    const unused = new Promise<void>((resolve) => {
      if (entry.users === 0) resolve();
      else entry.whenUnused = resolve;
    });
    entry.leaving = unused.then(() => this.#taken(entry)());
    try {
      await entry.leaving;
    } finally {
      entry.leaving = null;
    }
  }

  /** Takes a model out at once; the result frees it. */
  #taken(entry: Entry): () => Promise<void> {
    const { model, metrics, source } = entry;
    entry.model = null;
    return async () => {
      if (model === null) return;
      metrics.keep(model.engine.stats());
      await model.dispose();
      this.#options.log?.info({ model: source.name }, "model unloaded");
    };
  }

  #release(entry: Entry): void {
    entry.users--;
    entry.usedAt = performance.now();
    if (entry.users > 0) return;
    entry.whenUnused?.();
    entry.whenUnused = null;
    const { idleTimeout } = this.#options;
    if (idleTimeout === undefined || entry.model === null) return;
    entry.idle = setTimeout(() => {
      this.#later(async () => {
        if (entry.users === 0) await this.#leave(entry);
      });
    }, idleTimeout);
    entry.idle.unref();
  }
}

/** A model that nobody here has, beside those that somebody has. */
export function modelNotFound(name: string, known: readonly string[]): ApiError {
  const there = known.length === 0 ? "none now" : known.map((one) => `"${one}"`).join(", ");
  const asked = JSON.stringify(name).slice(0, 200);
  const message = `model: ${asked} is not served here; there is ${there}`;
  return new ApiError(404, message, { param: "model", code: "model_not_found" });
}

function stateOf({ source, model, metrics }: Entry): ModelState {
  return {
    name: source.name,
    maxContext: model?.engine.maxContext ?? source.maxContext ?? null,
    loaded: model !== null,
    metrics,
    stats: model?.engine.stats() ?? null,
  };
}
