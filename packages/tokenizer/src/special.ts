/** DeepSeek-V3's control tokens by what they do, in the order of their ids. */
export const SPECIAL_TOKENS = {
  bos: "<｜begin▁of▁sentence｜>",
  eos: "<｜end▁of▁sentence｜>",
  pad: "<｜▁pad▁｜>",
  fimHole: "<｜fim▁hole｜>",
  fimBegin: "<｜fim▁begin｜>",
  fimEnd: "<｜fim▁end｜>",
  user: "<｜User｜>",
  assistant: "<｜Assistant｜>",
  eot: "<|EOT|>",
  toolCallsBegin: "<｜tool▁calls▁begin｜>",
  toolCallsEnd: "<｜tool▁calls▁end｜>",
  toolCallBegin: "<｜tool▁call▁begin｜>",
  toolCallEnd: "<｜tool▁call▁end｜>",
  toolOutputsBegin: "<｜tool▁outputs▁begin｜>",
  toolOutputsEnd: "<｜tool▁outputs▁end｜>",
  toolOutputBegin: "<｜tool▁output▁begin｜>",
  toolOutputEnd: "<｜tool▁output▁end｜>",
  toolSep: "<｜tool▁sep｜>",
  thinkBegin: "<think>", // DeepSeek-R1 and V3.1; V3's own vocabulary has neither
  thinkEnd: "</think>",
} as const;

export type SpecialRole = keyof typeof SPECIAL_TOKENS;

export const SPECIAL_ROLES: readonly SpecialRole[] = Object.keys(SPECIAL_TOKENS) as SpecialRole[];

/** Id of each role's token; undefined where the vocabulary has none. */
export type SpecialIds = { readonly [role in SpecialRole]?: number };

/** What tokenizer_config.json tells us; all other fields travel through untouched. */
export interface TokenizerConfig {
  add_bos_token?: boolean;
  add_eos_token?: boolean;
  bos_token?: string | { content: string } | null;
  eos_token?: string | { content: string } | null;
  pad_token?: string | { content: string } | null;
  chat_template?: string | null;
  [field: string]: unknown;
}

/** Roles to ids: bos, eos and pad as the config says, else all by DeepSeek's names. */
export function resolveSpecial(
  idOf: (content: string) => number | undefined,
  config: TokenizerConfig,
): SpecialIds {
  const ids: { [role in SpecialRole]?: number } = {};
  for (const role of SPECIAL_ROLES) {
    const id = idOf(SPECIAL_TOKENS[role]);
    if (id !== undefined) ids[role] = id;
  }
  for (const role of ["bos", "eos", "pad"] as const) {
    const token = config[`${role}_token`];
    if (token === undefined || token === null) continue;
    const content = typeof token === "string" ? token : token.content;
    const id = idOf(content);
    if (id === undefined) {
      throw new Error(
        `tokenizer_config.json: ${role}_token ${JSON.stringify(content)} is not among the added tokens of tokenizer.json`,
      );
    }
    ids[role] = id;
  }
  return ids;
}
