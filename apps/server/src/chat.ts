/** POST /v1/chat/completions. */
import type { Delta, Drawn, Usage } from "@dsv3/serve";
import type { Tokenizer } from "@dsv3/tokenizer";
import { converse } from "./conversation.ts";
import { type Service, start, tokenText, usageBody } from "./generate.ts";
import type { ChatRequest } from "./schemas.ts";
import type { Reply } from "./stream.ts";

export async function chat(
  service: Service,
  request: ChatRequest,
  signal: AbortSignal,
): Promise<Reply> {
  const { tokenizer, model } = service;
  const conversation = converse(request, tokenizer);
  const run = start(service, [conversation.request], signal);
  const head = {
    id: `chatcmpl-${crypto.randomUUID()}`,
    created: Math.floor(Date.now() / 1000),
    model,
  };
  const answers = Array.from({ length: request.n ?? 1 }, () => conversation.answer());
  const usageOf = (usage: Usage) => {
    const reasoning_tokens = answers.reduce((sum, answer) => sum + answer.reasoningTokens, 0);
    return { ...usageBody(usage), completion_tokens_details: { reasoning_tokens } };
  };

  if (request.stream) {
    const wantsUsage = request.stream_options?.include_usage === true;
    const chunk = (choices: readonly object[], usage: object | null = null) => ({
      ...head,
      object: "chat.completion.chunk",
      choices,
      ...(wantsUsage && { usage }),
    });
    const choice = (index: number, delta: object, logprobs: object | null, reason: string | null) =>
      chunk([{ index, delta, logprobs, finish_reason: reason }]);
    const greeting = { role: "assistant", content: "" };
    const parts = {
      first: answers.map((_, i) => choice(i, greeting, null, null)),
      event(delta: Delta) {
        const answer = answers[delta.choice]!;
        const logprobs = request.logprobs ? new Logprobs() : null;
        logprobs?.add(logprobOf(tokenizer, delta), answer.thinking);
        const said = answer.take(delta);
        if (said.length === 0 && !logprobs && !delta.finishReason) return [];
        return [choice(delta.choice, answer.changed(said), logprobs, answer.reason)];
      },
      last: (usage: Usage) => (wantsUsage ? [chunk([], usageOf(usage))] : []),
    };
    return { run, ...parts };
  }

  const logprobs = answers.map(() => (request.logprobs ? new Logprobs() : null));
  const usage = await run.each((delta) => {
    const answer = answers[delta.choice]!;
    logprobs[delta.choice]?.add(logprobOf(tokenizer, delta), answer.thinking);
    answer.take(delta);
  });
  return {
    body: {
      ...head,
      object: "chat.completion",
      choices: answers.map((answer, index) => ({
        index,
        message: answer.message(),
        logprobs: logprobs[index]!,
        finish_reason: answer.reason,
      })),
      usage: usageOf(usage),
    },
  };
}

/** Log-probabilities as bodies have them: those of thoughts apart, as DeepSeek has it. */
class Logprobs {
  content: object[] | null = null;
  readonly refusal = null;
  reasoning_content?: object[];

  add(logprob: object, thought: boolean): void {
    this[thought ? "reasoning_content" : "content"] ??= [];
    this[thought ? "reasoning_content" : "content"]!.push(logprob);
  }
}

function logprobOf(tokenizer: Tokenizer, { token, logprob, top }: Drawn): object {
  const one = (id: number, logprob: number) => ({ ...tokenText(tokenizer, id), logprob });
  return {
    ...one(token, logprob),
    top_logprobs: top.map((t) => one(t.token, t.logprob)),
  };
}
