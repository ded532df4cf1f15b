import { type ChildProcess, fork } from "node:child_process";
import { AddedTokenFinder } from "./added-tokens.ts";
import { IdBuffer } from "./encoder.ts";
import type { JinjaAnswer, JinjaJob } from "./node-jinja-child.ts";
import { guardContext } from "./special-guard.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface JinjaChatOptions {
  /** The template. Default: the `chat_template` of the tokenizer's config. */
  template?: string;
  /** Longest time for a conversation, in milliseconds. Default 2000. */
  timeoutMs?: number;
  /**
   * Heap of the process that renders, in MiB. Default 128, with which the process as a whole was
   * seen to grow to 360 MiB before it ended.
   */
  memoryMiB?: number;
  /** Longest text rendered, in UTF-16 units. Default 2^22. */
  maxLength?: number;
}

export interface JinjaRenderOptions {
  /** End with what asks the assistant to speak. Default false. */
  addGenerationPrompt?: boolean;
  /** More variables, as the template names them: `tools`, `documents`, `enable_thinking` … */
  variables?: Record<string, unknown>;
}

/** Starting Node may take long on a busy machine, and is no template's fault. */
const START_MS = 60_000;

/**
 * Conversations by a folder's own Jinja template. A template is a program from a stranger: it runs
 * in a process of its own, with limits to its time, memory and output. Whatever it does, the caller
 * gets an error at worst. The process is used again for the next conversation, one at a time, and
 * started anew after it had to be killed; it keeps no program alive. `close` it when done.
 *
 * For DeepSeek-V3 itself take `encodeChat`, which needs no process and gives a mask.
 */
export class JinjaChat {
  readonly #tokenizer: Tokenizer;
  readonly #finder: AddedTokenFinder;
  readonly #template: string;
  /** `bos_token` and its like: the template's own words, which no guard may change. */
  readonly #tokens: Record<string, string>;
  readonly #timeoutMs: number;
  readonly #memoryMiB: number;
  readonly #maxLength: number;
  #child: Promise<ChildProcess> | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** @throws where neither the options nor the tokenizer's config have a template */
  constructor(tokenizer: Tokenizer, options: JinjaChatOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#finder = new AddedTokenFinder(tokenizer.addedTokens);
    this.#template = options.template ?? configTemplate(tokenizer);
    this.#tokens = configTokens(tokenizer);
    this.#timeoutMs = positive("timeoutMs", options.timeoutMs ?? 2000);
    this.#memoryMiB = positive("memoryMiB", options.memoryMiB ?? 128);
    this.#maxLength = positive("maxLength", options.maxLength ?? 1 << 22);
  }

  /**
   * The conversation as token ids. Control tokens come from the template alone; those written into
   * messages or variables are encoded as ordinary text.
   * @throws for a template that fails or passes a limit
   */
  async encode(messages: readonly object[], options?: JinjaRenderOptions): Promise<Uint32Array> {
    const { context, restore } = guardContext(
      this.#tokenizer.addedTokens,
      this.#template,
      this.#context(messages, options),
    );
    const text = await this.#render(context);
    const ids = new IdBuffer();
    for (const { id, start, end } of this.#finder.split(text)) {
      if (id >= 0) ids.push(id);
      else for (const x of this.#tokenizer.encode(restore(text.slice(start, end)))) ids.push(x);
    }
    return ids.take();
  }

  /**
   * The conversation as text, to be read; to feed a model take {@link encode}.
   * @throws for a template that fails or passes a limit
   */
  async render(messages: readonly object[], options?: JinjaRenderOptions): Promise<string> {
    return this.#render(this.#context(messages, options));
  }

  /** Ends the process; renderings in work fail. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #context(
    messages: readonly object[],
    { addGenerationPrompt = false, variables }: JinjaRenderOptions = {},
  ): Record<string, unknown> {
    return { ...variables, messages, add_generation_prompt: addGenerationPrompt };
  }

  /** One conversation after the other. */
  #render(context: Record<string, unknown>): Promise<string> {
    const result = this.#last.then(() => this.#renderNow(context));
    this.#last = result.catch(() => {});
    return result;
  }

  async #renderNow(context: Record<string, unknown>): Promise<string> {
    if (this.#closed) throw new Error("this JinjaChat is closed");
    this.#child ??= this.#start();
    const child = await this.#child;
    const answer = await this.#ask(child, {
      template: this.#template,
      context: { ...context, ...this.#tokens },
      maxLength: this.#maxLength,
      lastMs: 2 * this.#timeoutMs,
    });
    if ("text" in answer) return answer.text;
    throw new Error(`chat template: ${"error" in answer ? answer.error : "no answer"}`);
  }

  async #start(): Promise<ChildProcess> {
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const child = fork(new URL(`./node-jinja-child.${extension}`, import.meta.url), {
      execArgv: [
        `--max-old-space-size=${this.#memoryMiB}`,
        "--disallow-code-generation-from-strings",
      ],
      env: {},
      stdio: ["ignore", "ignore", "ignore", "ipc"],
    });
    child.on("error", () => {}); // whoever waits for an answer hears of it, too
    child.once("exit", () => {
      this.#child = undefined;
    });
    try {
      await nextAnswer(child, START_MS, "the process for chat templates did not start");
    } catch (error) {
      child.kill("SIGKILL");
      throw error;
    }
    child.unref();
    child.channel?.unref();
    return child;
  }

  async #ask(child: ChildProcess, job: JinjaJob): Promise<JinjaAnswer> {
    child.channel?.ref(); // the program waits for an answer
    try {
      const answer = nextAnswer(
        child,
        this.#timeoutMs,
        `chat template: stopped after ${this.#timeoutMs} ms`,
        `chat template: it used more than ${this.#memoryMiB} MiB, or its process was killed`,
      );
      child.send(job, () => {}); // a child that is gone shows by its exit
      return await answer;
    } catch (error) {
      await this.#kill();
      throw error;
    } finally {
      child.channel?.unref();
    }
  }

  async #kill(): Promise<void> {
    const child = await this.#child?.catch(() => undefined);
    this.#child = undefined;
    child?.kill("SIGKILL");
  }
}

/** What the child says next. @throws if it says nothing in time, or ends */
function nextAnswer(
  child: ChildProcess,
  timeoutMs: number,
  late: string,
  ended: string = late,
): Promise<JinjaAnswer> {
  return new Promise((resolve, reject) => {
    const settle = (finish: () => void): void => {
      clearTimeout(timer);
      child.off("message", onMessage).off("exit", onExit).off("error", onError);
      finish();
    };
    const onMessage = (answer: unknown): void => settle(() => resolve(answer as JinjaAnswer));
    const onExit = (): void => settle(() => reject(new Error(ended)));
    const onError = (cause: Error): void => settle(() => reject(new Error(ended, { cause })));
    const timer = setTimeout(() => settle(() => reject(new Error(late))), timeoutMs);
    child.on("message", onMessage).on("exit", onExit).on("error", onError);
  });
}

/** `chat_template`: a text, or a list of named ones of which "default" is meant. */
function configTemplate(tokenizer: Tokenizer): string {
  const given: unknown = tokenizer.config.chat_template;
  const template = Array.isArray(given)
    ? given.find((entry) => entry?.name === "default")?.template
    : given;
  if (typeof template === "string") return template;
  throw new Error("tokenizer_config.json has no chat_template; give one as the option `template`");
}

function configTokens({ config }: Tokenizer): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const name of ["bos_token", "eos_token", "pad_token"] as const) {
    const token = config[name];
    if (token) tokens[name] = typeof token === "string" ? token : token.content;
  }
  return tokens;
}

function positive(name: string, value: number): number {
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new RangeError(`${name} ${value}: expected a whole number above 0`);
}
