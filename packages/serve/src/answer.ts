/**
 * What an answer's text says, while it comes: thoughts, words, and calls of functions, in the formats
 * of DeepSeek-V3 (`function<｜tool▁sep｜>NAME`, then JSON in a fence) and V3.1 (`NAME<｜tool▁sep｜>`, then
 * JSON). What looked like a call and is none comes out as words: no text is lost.
 */
import { SPECIAL_TOKENS } from "@dsv3/tokenizer";
import { findFirst, safeLength } from "./stop.ts";

export type AnswerEvent =
  | { readonly type: "reasoning"; readonly text: string }
  | { readonly type: "content"; readonly text: string }
  /** A call begins: its number within the answer, and the function's name. */
  | { readonly type: "call"; readonly call: number; readonly name: string }
  /** More of a call's arguments: JSON, if the model wrote it well. */
  | { readonly type: "arguments"; readonly call: number; readonly text: string };

export interface AnswerOptions {
  /** Whether calls are looked for. */
  readonly tools: boolean;
  /** Whether the prompt has begun a thought already, that `</think>` ends. */
  readonly thinking?: boolean;
}

const {
  toolCallsBegin: CALLS_BEGIN,
  toolCallsEnd: CALLS_END,
  toolCallBegin: CALL_BEGIN,
  toolCallEnd: CALL_END,
  toolSep: SEP,
  thinkBegin: THINK,
  thinkEnd: THOUGHT,
} = SPECIAL_TOKENS;

/** Function names have 64 characters at most; what goes on for longer is no name. */
const MAX_HEAD = 128;
/** A call's end, with the fence around V3's arguments and without. */
const ENDS = [`\n\`\`\`${CALL_END}`, `\`\`\`${CALL_END}`, CALL_END];

type State = "start" | "reasoning" | "content" | "calls" | "head" | "arguments";

export class AnswerParser {
  readonly #tools: boolean;
  #state: State;
  /** What has come and has not been understood yet. */
  #text = "";
  /** What was passed on the way to a call's name, to be given back if none comes. */
  #passed = "";
  #fenced = false;
  #calls = 0;
  #events: AnswerEvent[] = [];

  constructor({ tools, thinking = false }: AnswerOptions) {
    this.#tools = tools;
    this.#state = thinking ? "reasoning" : "start";
  }

  /** Calls that have begun so far. */
  get calls(): number {
    return this.#calls;
  }

  /** Whether the answer is in a thought. */
  get reasoning(): boolean {
    return this.#state === "reasoning";
  }

  /** Takes the next piece of text. */
  push(text: string): AnswerEvent[] {
    this.#text += text;
    while (this.#advance()) {
      // A step may have made room for the next.
    }
    return this.#take();
  }

  /** What was held back, at the end of the answer. */
  end(): AnswerEvent[] {
    if (this.#state === "arguments") {
      // The end of the answer ends its fence too.
      const rest = this.#fenced ? this.#text.replace(/\n?```$/, "") : this.#text;
      this.#give({ type: "arguments", call: this.#calls - 1, text: rest });
    } else {
      const type = this.#state === "reasoning" ? "reasoning" : "content";
      this.#give({ type, text: this.#passed + this.#text });
    }
    this.#text = this.#passed = "";
    return this.#take();
  }

  #advance(): boolean {
    switch (this.#state) {
      case "start": {
        const words = this.#text.trimStart();
        if (words.startsWith(THINK)) {
          this.#text = words.slice(THINK.length);
          return this.#go("reasoning");
        }
        return THINK.startsWith(words) ? false : this.#go("content");
      }
      case "reasoning":
        return this.#until("reasoning", [THOUGHT]) !== null && this.#go("content");
      case "content": {
        const found = this.#until("content", this.#tools ? [CALLS_BEGIN] : []);
        if (found === null) return false;
        this.#passed = found;
        return this.#go("calls");
      }
      case "calls":
        return this.#between();
      case "head":
        return this.#head();
      case "arguments":
        return this.#until("arguments", ENDS) !== null && this.#go("calls");
    }
  }

  /** Between the calls of a list: another one, or its end. */
  #between(): boolean {
    const words = this.#text.trimStart();
    for (const sign of [CALL_BEGIN, CALLS_END]) {
      if (sign.startsWith(words)) {
        if (sign !== words) return false;
      } else if (!words.startsWith(sign)) continue;
      const passed = this.#text.length - words.length + sign.length;
      if (sign === CALLS_END) {
        // An empty list is no call, and so words.
        if (this.#passed !== "") return this.#noCall();
        this.#text = this.#text.slice(passed);
        return this.#go("content");
      }
      this.#passed += this.#text.slice(0, passed);
      this.#text = this.#text.slice(passed);
      return this.#go("head");
    }
    return this.#noCall();
  }

  #head(): boolean {
    const [kind = "", ...rest] = this.#text.split(SEP);
    if (rest.length === 0) {
      const sign = findFirst(this.#text, [CALL_END, CALLS_END, CALL_BEGIN]);
      return sign !== null || this.#text.length > MAX_HEAD ? this.#noCall() : false;
    }
    if (kind !== "function") {
      if (!isName(kind)) return this.#noCall();
      return this.#call(kind, kind.length + SEP.length, false);
    }
    const start = kind.length + SEP.length;
    const body = this.#text.slice(start);
    const fence = /^([^\n]*)\n```(?:json)?\n/.exec(body);
    if (fence === null) {
      const line = body.indexOf("\n");
      const open = line < 0 ? body : body.slice(line);
      const maybe = line < 0 || ["\n```json\n", "\n```\n"].some((sign) => sign.startsWith(open));
      return maybe && body.length <= MAX_HEAD ? false : this.#noCall();
    }
    if (!isName(fence[1]!)) return this.#noCall();
    return this.#call(fence[1]!, start + fence[0].length, true);
  }

  #call(name: string, length: number, fenced: boolean): boolean {
    this.#give({ type: "call", call: this.#calls++, name: name.trim() });
    this.#text = this.#text.slice(length);
    this.#passed = "";
    this.#fenced = fenced;
    return this.#go("arguments");
  }

  /** What was taken for a call is words. */
  #noCall(): boolean {
    this.#give({ type: "content", text: this.#passed });
    this.#passed = "";
    return this.#go("content");
  }

  /** Gives the text before the first of some signs, as far as it is certain; the sign, or null. */
  #until(type: "reasoning" | "content" | "arguments", signs: readonly string[]): string | null {
    const found = findFirst(this.#text, signs);
    const end = found?.at ?? safeLength(this.#text, signs);
    const text = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + (found?.stop.length ?? 0));
    this.#give(type === "arguments" ? { type, call: this.#calls - 1, text } : { type, text });
    return found?.stop ?? null;
  }

  #give(event: AnswerEvent): void {
    if (event.type === "call" || event.text !== "") this.#events.push(event);
  }

  #go(state: State): true {
    this.#state = state;
    return true;
  }

  #take(): AnswerEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }
}

function isName(text: string): boolean {
  return /^\s*[\w.-]{1,64}\s*$/.test(text);
}
