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
  const chosen = (delta: Drawn) =>
    request.logprobs ? { content: [logprobOf(tokenizer, delta)] } : null;
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
        const said = answer.take(delta);
        const logprobs = chosen(delta);
        if (said.length === 0 && !logprobs && !delta.finishReason) return [];
        return [choice(delta.choice, answer.changed(said), logprobs, answer.reason)];
      },
      last: (usage: Usage) => (wantsUsage ? [chunk([], usageOf(usage))] : []),
    };
    return { run, ...parts };
  }

  const logprobs = answers.map((): object[] => []);
  const usage = await run.each((delta) => {
    answers[delta.choice]!.take(delta);
    logprobs[delta.choice]!.push(...(chosen(delta)?.content ?? []));
  });
  return {
    body: {
      ...head,
      object: "chat.completion",
      choices: answers.map((answer, index) => ({
        index,
        message: answer.message(),
        logprobs: request.logprobs ? { content: logprobs[index], refusal: null } : null,
        finish_reason: answer.reason,
      })),
      usage: usageOf(usage),
    },
  };
}

function logprobOf(tokenizer: Tokenizer, { token, logprob, top }: Drawn): object {
  const one = (id: number, logprob: number) => ({ ...tokenText(tokenizer, id), logprob });
  return {
    ...one(token, logprob),
    top_logprobs: top.map((t) => one(t.token, t.logprob)),
  };
}
