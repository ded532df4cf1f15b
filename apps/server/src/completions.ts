/** POST /v1/completions: continues texts or token ids, and fills the middle. */
import type { Delta, Drawn, GenerationRequest } from "@dsv3/serve";
import type { Tokenizer } from "@dsv3/tokenizer";
import { badRequest } from "./errors.ts";
import { engineRequest, type Service, start, tokenText, usageBody } from "./generate.ts";
import type { CompletionRequest } from "./schemas.ts";
import type { Reply } from "./stream.ts";

const DEFAULT_MAX_TOKENS = 16;

export async function completions(
  service: Service,
  request: CompletionRequest,
  signal: AbortSignal,
): Promise<Reply> {
  const { tokenizer, model } = service;
  const prompts = promptsOf(request, tokenizer);
  const scored = request.echo === true && typeof request.logprobs === "number";
  const run = start(
    service,
    prompts.map(({ ids }): GenerationRequest => {
      const extra = { maxTokens: request.max_tokens ?? DEFAULT_MAX_TOKENS };
      const logprobs = typeof request.logprobs === "number" && { logprobs: request.logprobs };
      const echo = scored && { promptLogprobs: request.logprobs! };
      return engineRequest(request, ids, { ...extra, ...logprobs, ...echo });
    }),
    signal,
  );
  const head = {
    id: `cmpl-${crypto.randomUUID()}`,
    object: "text_completion",
    created: Math.floor(Date.now() / 1000),
    model,
  };
  const n = request.n ?? 1;
  const answers = prompts.flatMap(({ ids, text }) =>
    Array.from({ length: n }, () => ({
      ids: ids as ArrayLike<number>,
      shown: request.echo ? text : "",
      /** Characters before the next token. */
      length: request.echo ? text.length : 0,
      drawn: [] as Token[],
      offsets: [] as number[],
      reason: "stop" as string,
    })),
  );
  /** The prompt's tokens and their places, if they are asked for. */
  const echoed = (prompt: number, ids: ArrayLike<number>) =>
    scored ? echoOf(tokenizer, ids, run.prompt(prompt)) : { drawn: [], offsets: [] };
  const logprobs = (drawn: readonly Token[], offsets: readonly number[]) =>
    typeof request.logprobs === "number" ? logprobsOf(tokenizer, drawn, offsets) : null;

  if (request.stream) {
    const wantsUsage = request.stream_options?.include_usage === true;
    const chunk = (choices: readonly object[], usage: object | null = null) => ({
      ...head,
      choices,
      ...(wantsUsage && { usage }),
    });
    const parts = {
      first: answers.flatMap(({ shown }, index) =>
        shown && !scored
          ? [chunk([{ index, text: shown, logprobs: null, finish_reason: null }])]
          : [],
      ),
      event(delta: Delta, prompt: number) {
        const index = prompt * n + delta.choice;
        const answer = answers[index]!;
        const offset = answer.length;
        answer.length += delta.text.length;
        // An echo with log-probabilities has to wait for them, and comes with the first token.
        const { drawn, offsets } = echoed(prompt, answer.ids);
        const text = (scored ? answer.shown : "") + delta.text;
        answer.shown = "";
        answer.ids = [];
        const l = logprobs([...drawn, delta], [...offsets, offset]);
        if (text === "" && !l && !delta.finishReason) return [];
        return [chunk([{ index, text, logprobs: l, finish_reason: delta.finishReason }])];
      },
      last: (usage: Parameters<typeof usageBody>[0]) =>
        wantsUsage ? [chunk([], usageBody(usage))] : [],
    };
    return { run, ...parts };
  }

  const usage = await run.each((delta, prompt) => {
    const answer = answers[prompt * n + delta.choice]!;
    answer.drawn.push(delta);
    answer.offsets.push(answer.shown.length);
    answer.shown += delta.text;
    answer.reason = delta.finishReason ?? answer.reason;
  });
  return {
    body: {
      ...head,
      choices: answers.map(({ ids, shown, drawn, offsets, reason }, index) => {
        const echo = echoed(Math.floor(index / n), ids);
        const l = logprobs([...echo.drawn, ...drawn], [...echo.offsets, ...offsets]);
        return { index, text: shown, logprobs: l, finish_reason: reason };
      }),
      usage: usageBody(usage),
    },
  };
}

/** Every prompt as ids, and as the text that `echo` shows. */
function promptsOf(
  { prompt, suffix }: CompletionRequest,
  tokenizer: Tokenizer,
): { ids: ArrayLike<number>; text: string }[] {
  const list = (typeof prompt === "string" ? [prompt] : prompt) as readonly unknown[];
  const many = (typeof list[0] === "number" || list.length === 0 ? [list] : list) as
    | readonly string[]
    | readonly (readonly number[])[];
  return many.map((one) => {
    if (typeof one !== "string") {
      if (typeof suffix === "string") throw badRequest("suffix", "needs a prompt that is a text");
      return { ids: one, text: one.map((id) => tokenText(tokenizer, id).token).join("") };
    }
    if (typeof suffix === "string") return { ids: aroundHole(one, suffix, tokenizer), text: one };
    return { ids: tokenizer.encode(one, { addSpecial: true }), text: one };
  });
}

/** Prefix, hole, suffix, between the tokens that V3 was trained with (report, section 2.1 of data). */
function aroundHole(prefix: string, suffix: string, tokenizer: Tokenizer): number[] {
  try {
    return [
      tokenizer.specialId("bos"),
      tokenizer.specialId("fimBegin"),
      ...tokenizer.encode(prefix),
      tokenizer.specialId("fimHole"),
      ...tokenizer.encode(suffix),
      tokenizer.specialId("fimEnd"),
    ];
  } catch (error) {
    throw badRequest("suffix", (error as Error).message, "unsupported_parameter");
  }
}

/** A token; the first of a prompt has no log-probability. */
type Token = Drawn | { readonly token: number; readonly logprob: null; readonly top: null };

function echoOf(
  tokenizer: Tokenizer,
  ids: ArrayLike<number>,
  scores: readonly (Drawn | null)[],
): { drawn: Token[]; offsets: number[] } {
  const decoder = tokenizer.decoder({ skipSpecial: true });
  let length = 0;
  const offsets = Array.from(ids, (id) => {
    const offset = length;
    if (id < tokenizer.vocabSize) length += decoder.push(id).length;
    return offset;
  });
  const drawn = Array.from(ids, (token, i): Token => {
    return scores[i] ?? { token, logprob: null, top: null };
  });
  return { drawn, offsets };
}

function logprobsOf(
  tokenizer: Tokenizer,
  drawn: readonly Token[],
  offsets: readonly number[],
): object {
  const text = (id: number) => tokenText(tokenizer, id).token;
  return {
    tokens: drawn.map(({ token }) => text(token)),
    token_logprobs: drawn.map(({ logprob }) => logprob),
    top_logprobs: drawn.map(
      ({ top }) =>
        top && Object.fromEntries(top.map(({ token, logprob }) => [text(token), logprob])),
    ),
    text_offset: offsets,
  };
}
