/**
 * An answer to a conversation, whoever gives it. Routes that have words of their own for its parts are
 * written over this, and so are the same for models of this machine and of others.
 */
import type { AnswerEvent } from "@dsv3/serve";
import type { Call } from "./answer.ts";
import { converse } from "./conversation.ts";
import { type Parts, type Service, start } from "./generate.ts";
import type { ChatRequest } from "./schemas.ts";

/** What has been said so far, and why it ended. */
export interface Said {
  readonly content: string;
  readonly reasoning: string;
  readonly calls: readonly Call[];
  readonly reasoningTokens: number;
  /** Null until the answer ends. */
  readonly reason: "stop" | "length" | "tool_calls" | null;
  /** The stop string or id that ended it. */
  readonly stopped: string | number | null;
}

export interface Talk {
  /** Grows while `run` is read. */
  readonly answer: Said;
  /** Null where only the end tells. */
  readonly promptTokens: number | null;
  readonly run: Parts<readonly AnswerEvent[]>;
}

export interface Talker {
  /** The name that clients call the model by. */
  readonly model: string;
  talk(request: ChatRequest, signal: AbortSignal): Talk | Promise<Talk>;
}

/** A model of this machine. */
export function talker(service: Service): Talker {
  return {
    model: service.model,
    talk(chat, signal) {
      const { request, answer: begin } = converse(chat, service.tokenizer);
      const run = start(service, [request], signal);
      const answer = begin();
      const each: Talk["run"]["each"] = (take) => run.each((delta) => take(answer.take(delta), 0));
      return { answer, promptTokens: request.prompt.length, run: { each, cancel: run.cancel } };
    },
  };
}
