import type { AddedToken } from "./added-tokens.ts";
import { JsonReader } from "./json-reader.ts";
import { recognisePreTokenizer } from "./pretokenize.ts";
import { type ReadModel, readModel, takeOutAddedTokens } from "./read-model.ts";
import type { TokenizerConfig } from "./special.ts";
import type { TokenizerData } from "./tokenizer-data.ts";

/**
 * Reads a Hugging Face tokenizer.json.
 * @throws with line and column for what is not JSON, and by name for every feature that is not
 * implemented here: a file is read whole or not at all.
 */
export function readTokenizerJson(
  json: string | Uint8Array | object,
  config: TokenizerConfig = {},
): TokenizerData {
  const bytes =
    json instanceof Uint8Array
      ? json
      : new TextEncoder().encode(typeof json === "string" ? json : JSON.stringify(json));
  const reader = new JsonReader(bytes, "tokenizer.json");
  const fields: Record<string, unknown> = {};
  let read: ReadModel | undefined;
  for (let more = reader.enter("{"); more; more = reader.more("}")) {
    const key = reader.key();
    if (key === "model") read = readModel(reader);
    else fields[key] = reader.value();
  }
  reader.end();
  if (read === undefined) throw new Error('tokenizer.json: field "model" is missing');

  refuseFeatures(fields);
  const addedTokens = readAddedTokens(fields.added_tokens ?? []);
  takeOutAddedTokens(read, addedTokens);
  const idOf = new Map(addedTokens.map((token) => [token.content, token.id]));
  return {
    ...read,
    preTokenizer: recognisePreTokenizer(fields.pre_tokenizer),
    addedTokens,
    ...readAffixes(fields.post_processor, config, idOf),
    postProcessor: fields.post_processor ?? null,
    config,
  };
}

function readAddedTokens(json: unknown): AddedToken[] {
  if (!Array.isArray(json)) throw new Error("tokenizer.json: added_tokens is not a list");
  const ids = new Set<number>();
  const contents = new Set<string>();
  return json.map((entry, i) => {
    const where = `tokenizer.json: added_tokens[${i}]`;
    const { id, content } = (entry ?? {}) as Record<string, unknown>;
    if (typeof content !== "string" || content === "") {
      throw new Error(`${where}: content ${JSON.stringify(content)} is not a text`);
    }
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > 0x7fffffff) {
      throw new Error(`${where}: id ${JSON.stringify(id)} is not a whole number`);
    }
    if (ids.has(id)) throw new Error(`${where}: id ${id} is given twice`);
    if (contents.has(content))
      throw new Error(`${where}: ${JSON.stringify(content)} is given twice`);
    ids.add(id);
    contents.add(content);
    const flag = (name: string): boolean => (entry as Record<string, unknown>)[name] === true;
    return {
      id,
      content,
      special: flag("special"),
      normalized: flag("normalized"),
      lstrip: flag("lstrip"),
      rstrip: flag("rstrip"),
      singleWord: flag("single_word"),
    };
  });
}

const isNothing = (value: unknown): boolean =>
  value === undefined || value === null || value === "";

/** Throws, by name, for what this package does not do. */
function refuseFeatures(fields: Record<string, unknown>): void {
  const refuse = (what: string): never => {
    throw new Error(`tokenizer.json: ${what} is not implemented`);
  };
  const known = ["version", "truncation", "padding", "added_tokens", "normalizer"];
  known.push("pre_tokenizer", "post_processor", "decoder", "model");
  for (const key of Object.keys(fields)) if (!known.includes(key)) refuse(`the field "${key}"`);
  if (fields.truncation) refuse("truncation");
  if (fields.padding) refuse("padding");
  const normalizer = fields.normalizer as { type?: string; normalizers?: unknown[] } | null;
  if (normalizer && !(normalizer.type === "Sequence" && normalizer.normalizers?.length === 0)) {
    refuse(`the normalizer ${JSON.stringify(normalizer)}`);
  }
  const decoder = fields.decoder as { type?: string } | null;
  if (decoder?.type !== "ByteLevel") refuse(`the decoder ${JSON.stringify(decoder)}`);
}

/** The ids around a text: as tokenizer_config.json says, else as the post-processor's template. */
function readAffixes(
  postProcessor: unknown,
  config: TokenizerConfig,
  idOf: ReadonlyMap<string, number>,
): { prefix: number[]; suffix: number[] } {
  const affixes = readTemplate(postProcessor);
  for (const [field, role, list] of [
    ["add_bos_token", "bos_token", "prefix"],
    ["add_eos_token", "eos_token", "suffix"],
  ] as const) {
    const wanted = config[field];
    if (wanted === undefined) continue;
    const token = config[role];
    const content = typeof token === "object" ? token?.content : token;
    const id = idOf.get(content ?? "");
    if (wanted && id === undefined) {
      throw new Error(
        `tokenizer_config.json: ${field} is true, but ${role} ${JSON.stringify(content)} is not an added token`,
      );
    }
    affixes[list] = wanted ? [id!] : [];
  }
  return affixes;
}

function readTemplate(json: unknown): { prefix: number[]; suffix: number[] } {
  const node = json as {
    type?: string;
    processors?: unknown[];
    single?: { SpecialToken?: { id: string }; Sequence?: unknown }[];
    special_tokens?: Record<string, { ids: number[] }>;
  } | null;
  if (isNothing(node) || node?.type === "ByteLevel") return { prefix: [], suffix: [] };
  if (node?.type === "Sequence" && Array.isArray(node.processors)) {
    const parts = node.processors.map(readTemplate);
    return {
      prefix: parts.flatMap((part) => part.prefix),
      suffix: parts.flatMap((part) => part.suffix),
    };
  }
  if (node?.type === "TemplateProcessing" && Array.isArray(node.single)) {
    const around = { prefix: [] as number[], suffix: [] as number[] };
    let list = around.prefix;
    for (const part of node.single) {
      if (part.Sequence !== undefined) list = around.suffix;
      else list.push(...(node.special_tokens?.[part.SpecialToken?.id ?? ""]?.ids ?? []));
    }
    return around;
  }
  throw new Error(`tokenizer.json: the post_processor ${JSON.stringify(json)} is not implemented`);
}
