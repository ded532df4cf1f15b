/**
 * One interface, several dialects: what engines call fields of requests and answers that ours have other
 * names for. Fields that are not named here are passed on as they are.
 */
import { badRequest } from "../errors.ts";

/** Whose server an upstream is, as its /v1/models tells by `owned_by`. */
export type Kind = "vllm" | "sglang" | "dsv3" | "other";

export type Json = { readonly [field: string]: unknown };

type Fields = { [field: string]: unknown };

export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** A request for a conversation or a text, as an engine takes it. */
export function requestFor(kind: Kind, body: Json): Json {
  const { max_completion_tokens, ...fields }: Fields = { ...body };
  // The older name is the one that all engines know.
  const most = max_completion_tokens ?? fields.max_tokens;
  if (most !== undefined) fields.max_tokens = most;
  if (Array.isArray(fields.stop) && fields.stop.length === 0) delete fields.stop;
  // Usage is asked for in any case, for the log; who did not ask is not sent it.
  if (fields.stream === true) {
    fields.stream_options = { ...(fields.stream_options as object), include_usage: true };
  } else {
    delete fields.stream_options;
  }
  if (kind === "dsv3") return { ...fields, ...structured(fields) };
  if (kind === "other") return fields;

  const last = Array.isArray(fields.messages) ? (fields.messages.at(-1) as unknown) : null;
  if (isObject(last) && last.prefix === true) {
    const { prefix: _, ...message } = last;
    fields.messages = [...(fields.messages as unknown[]).slice(0, -1), message];
    Object.assign(fields, { continue_final_message: true, add_generation_prompt: false });
  }
  if (Array.isArray(fields.messages)) fields.messages = fields.messages.map(thoughtBothWays);
  if (isObject(fields.thinking)) {
    const thinking = fields.thinking.type !== "disabled";
    fields.chat_template_kwargs = { thinking, ...(fields.chat_template_kwargs as object) };
    delete fields.thinking;
  }
  if (typeof fields.user_id === "string" && fields.user_id !== "") {
    fields.cache_salt ??= fields.user_id;
  }
  // vLLM before 0.10.2 knows guided_json and the like, which stay; from 0.12 on it knows the new name alone.
  if (kind === "vllm") return { ...fields, ...structured(fields) };
  return forSglang(fields);
}

const GUIDED = {
  guided_json: "json",
  guided_regex: "regex",
  guided_choice: "choice",
  guided_grammar: "grammar",
} as const;

/** `structured_outputs`, also where vLLM's older names are given. */
function structured(fields: Json): { structured_outputs?: Json } {
  if (isObject(fields.structured_outputs)) return { structured_outputs: fields.structured_outputs };
  for (const [old, name] of Object.entries(GUIDED)) {
    const value = fields[old];
    if (value === undefined || value === null) continue;
    return { structured_outputs: { [name]: name === "json" ? parsed(value) : value } };
  }
  return {};
}

/** SGLang has a field for each, and no choice. */
function forSglang(given: Json): Json {
  const { structured_outputs: outputs } = structured(given);
  const fields: Fields = { ...given };
  delete fields.structured_outputs;
  // Its way to say "all" is -1 alone.
  if (fields.top_k === 0) fields.top_k = -1;
  for (const old of Object.keys(GUIDED)) delete fields[old];
  if (outputs === undefined) return fields;
  const { json, regex, choice, grammar } = outputs;
  if (typeof regex === "string") fields.regex = regex;
  else if (typeof grammar === "string") fields.ebnf = grammar;
  else if (Array.isArray(choice)) {
    fields.regex = `(${choice.map((one) => literal(String(one))).join("|")})`;
  } else if (json !== undefined && Array.isArray(fields.messages)) {
    const json_schema = { name: "answer", schema: parsed(json) };
    fields.response_format = { type: "json_schema", json_schema };
  } else if (json !== undefined) {
    fields.json_schema = typeof json === "string" ? json : JSON.stringify(json);
  } else {
    // Left out, it would not bind the answer, and nobody would know.
    const problem = "the engine that has this model takes json, regex, choice and grammar";
    throw badRequest("structured_outputs", problem, "unsupported_parameter");
  }
  return fields;
}

/** A schema that is given as text. */
function parsed(schema: unknown): unknown {
  if (typeof schema !== "string") return schema;
  try {
    return JSON.parse(schema);
  } catch {
    return schema;
  }
}

const literal = (text: string) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");

/** Thoughts of earlier turns, by the older name and by vLLM's newer one. */
function thoughtBothWays(message: unknown): unknown {
  if (!isObject(message) || typeof message.reasoning_content !== "string") return message;
  return { reasoning: message.reasoning_content, ...message };
}

/** An answer, or a chunk of one, as ours are. `usage`: whether the client is told of it. */
export function answerFrom(body: Json, { usage = true }: { usage?: boolean } = {}): Json {
  const answer: Fields = { ...body };
  if (Array.isArray(body.choices)) {
    answer.choices = body.choices.map((choice: unknown) => {
      if (!isObject(choice)) return choice;
      const changed: Fields = { ...choice };
      for (const part of ["message", "delta"]) {
        if (isObject(choice[part])) changed[part] = withThought(choice[part]);
      }
      return changed;
    });
  }
  if (!usage) delete answer.usage;
  else if (isObject(body.usage) && "choices" in body) answer.usage = usageFrom(body.usage);
  return answer;
}

function withThought({ reasoning, ...message }: Json): Json {
  if (reasoning === undefined) return message;
  if (typeof message.reasoning_content === "string" || reasoning === null) return message;
  return { ...message, reasoning_content: reasoning };
}

const count = (value: unknown): number | undefined =>
  typeof value === "number" && Number.isFinite(value) ? value : undefined;

/** A count of tokens with the cache's share by OpenAI's name and by DeepSeek's, whichever was given. */
export function usageFrom(usage: Json): Json {
  const prompt = count(usage.prompt_tokens) ?? 0;
  const details = isObject(usage.prompt_tokens_details) ? usage.prompt_tokens_details : {};
  const cached = count(details.cached_tokens) ?? count(usage.prompt_cache_hit_tokens) ?? 0;
  const thought = count(usage.reasoning_tokens);
  const told = isObject(usage.completion_tokens_details) ? usage.completion_tokens_details : {};
  return {
    ...usage,
    prompt_tokens_details: { ...details, cached_tokens: cached },
    prompt_cache_hit_tokens: cached,
    prompt_cache_miss_tokens: prompt - cached,
    ...(thought !== undefined && {
      completion_tokens_details: { reasoning_tokens: thought, ...told },
    }),
  };
}
