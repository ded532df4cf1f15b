/** What routes do with a request for a model of another machine. */
import type { AnswerEvent } from "@dsv3/serve";
import type { Call } from "../answer.ts";
import { ApiError, badRequest } from "../errors.ts";
import { toChat } from "../messages.ts";
import { countRequest } from "../messages-schemas.ts";
import { read } from "../schemas.ts";
import type { Reply } from "../stream.ts";
import type { Said, Talker } from "../talk.ts";
import { answerFrom, isObject, type Json } from "./dialect.ts";
import type { Remote } from "./remote.ts";

export type Forward = (remote: Remote, body: Json) => Promise<Reply>;

const STREAMS = new Set<unknown>([true, false, null, undefined]);

/** Passes a request and its answer on, in our dialect. What is wrong in it, the engine says. */
export function passOn(path: string): Forward {
  return async (remote, body) => {
    // Some engines take "true" for true, and we would wait for an answer in one piece.
    if (!STREAMS.has(body.stream)) throw badRequest("stream", "must be true or false");
    if (body.stream !== true) return { body: answerFrom(await remote.whole(path, body)) };
    const options = body.stream_options;
    const usage = isObject(options) && options.include_usage === true;
    const run = await remote.chunks(path, body);
    const event = (chunk: Json) => {
      const empty = Array.isArray(chunk.choices) && chunk.choices.length === 0;
      return empty && !usage ? [] : [answerFrom(chunk, { usage })];
    };
    return { run, first: [], event, last: () => [] };
  };
}

/** What a conversation of Anthropic's costs there. */
export const countThere: Forward = async (remote, body) => {
  const { model, messages, tools } = toChat(read(countRequest, body));
  const { count } = await remote.whole("/tokenize", { model, messages: sent(messages), tools });
  return { body: { input_tokens: count } };
};

/** Conversations with a model of another machine. */
export function talkerThere(remote: Remote): Talker {
  return {
    model: remote.model,
    async talk({ messages, ...request }) {
      const body = { ...request, messages: sent(messages) };
      const run = await remote.chunks("/v1/chat/completions", body);
      const answer = new RemoteAnswer();
      return {
        answer,
        promptTokens: null,
        run: {
          each: (take) => run.each((chunk) => take(answer.take(answerFrom(chunk)), 0)),
          cancel: run.cancel,
        },
      };
    },
  };
}

/** Templates take a list of calls, even an empty one, for a message that calls. */
function sent(messages: readonly Json[]): Json[] {
  return messages.map(({ tool_calls, ...message }) => {
    return Array.isArray(tool_calls) && tool_calls.length > 0
      ? { ...message, tool_calls }
      : message;
  });
}

/** Reasons of engines that ended an answer because they could not go on with it. */
const GIVEN_UP = new Set(["abort", "error", "insufficient_system_resource"]);

function gaveUp(): ApiError {
  const options = { type: "server_error", code: "upstream_failed" };
  return new ApiError(503, "the engine gave the answer up", options);
}

/** An answer in chunks of OpenAI's, as it grows. */
class RemoteAnswer implements Said {
  readonly calls: Call[] = [];
  content = "";
  reasoning = "";
  reasoningTokens = 0;
  reason: Said["reason"] = null;
  stopped: Said["stopped"] = null;

  /** Takes a chunk; what it adds. */
  take({ choices, usage }: Json): AnswerEvent[] {
    const details = isObject(usage) && usage.completion_tokens_details;
    if (isObject(details)) this.reasoningTokens = Number(details.reasoning_tokens ?? 0);
    const choice: unknown = Array.isArray(choices) ? choices[0] : null;
    if (!isObject(choice)) return [];
    const said = isObject(choice.delta) ? this.#said(choice.delta) : [];
    const { finish_reason: reason, stop_reason, matched_stop } = choice;
    if (typeof reason === "string") {
      if (GIVEN_UP.has(reason)) throw gaveUp();
      this.reason = reason === "length" ? "length" : this.calls.length > 0 ? "tool_calls" : "stop";
      // vLLM's name, and SGLang's.
      const stopped = stop_reason ?? matched_stop;
      if (typeof stopped === "string" || typeof stopped === "number") this.stopped = stopped;
    }
    return said;
  }

  #said({ reasoning_content: thought, content, tool_calls: calls }: Json): AnswerEvent[] {
    const events: AnswerEvent[] = [];
    if (typeof thought === "string" && thought !== "") {
      this.reasoning += thought;
      events.push({ type: "reasoning", text: thought });
    }
    if (typeof content === "string" && content !== "") {
      this.content += content;
      events.push({ type: "content", text: content });
    }
    for (const part of Array.isArray(calls) ? calls : []) {
      if (isObject(part)) events.push(...this.#called(part));
    }
    return events;
  }

  #called({ index, id, function: called }: Json): AnswerEvent[] {
    const { name, arguments: args } = isObject(called) ? called : {};
    const events: AnswerEvent[] = [];
    // Calls come in order; one begins where its name is told.
    const at = typeof index === "number" ? Math.min(index, this.calls.length) : this.calls.length;
    if (at === this.calls.length) {
      if (typeof name !== "string" || name === "") return [];
      const own = typeof id === "string" ? id : `call_${crypto.randomUUID()}`;
      this.calls.push({ id: own, name, arguments: "" });
      events.push({ type: "call", call: at, name });
    }
    if (typeof args === "string" && args !== "") {
      this.calls[at]!.arguments += args;
      events.push({ type: "arguments", call: at, text: args });
    }
    return events;
  }
}
