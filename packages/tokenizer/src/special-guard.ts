import type { AddedToken } from "./added-tokens.ts";

/** Values for a template, in which no control token can be written; and the way back. */
export interface GuardedContext {
  context: Record<string, unknown>;
  /** Puts the original characters back into text that was rendered from `context`. */
  restore(text: string): string;
}

/**
 * Swaps characters of what a template is given for private ones, so that a control token in the
 * rendered text can only come from the template itself. Of each token flagged `special` one telling
 * character (the `｜` of `<｜User｜>`, the `|` of `<|im_end|>`) is swapped wherever it stands: the
 * token cannot arise, even if a template joins its halves from two messages. Templates look for
 * tokens that are not flagged (`</think>`) in what the assistant said, so these are swapped only as
 * a whole, and only outside the assistant's messages. Everything keeps its length.
 * @throws if the values use up all private characters
 */
export function guardContext(
  tokens: readonly AddedToken[],
  template: string,
  context: Record<string, unknown>,
): GuardedContext {
  const used = new Set(template + JSON.stringify(context));
  const swaps = new Map<string, string>(); // character -> private one
  const originals = new Map<string, string>();
  let next = FIRST_PRIVATE;
  const privateOf = (character: string): string => {
    const known = swaps.get(character);
    if (known !== undefined) return known;
    while (used.has(String.fromCharCode(next))) next++;
    if (next > LAST_PRIVATE) {
      throw new Error("the messages contain every private-use character (U+E000 to U+F8FF)");
    }
    const sign = String.fromCharCode(next++);
    swaps.set(character, sign);
    originals.set(sign, character);
    return sign;
  };

  const everywhere = new Set<string>();
  const whole = new Set<string>(); // tokens without a telling character
  const unflagged = new Set<string>();
  for (const { content, special } of tokens) {
    const telling = tellingCharacter(content);
    if (!special) unflagged.add(content);
    else if (telling === undefined) whole.add(content);
    else everywhere.add(telling);
  }
  const always = alternatives([...everywhere, ...whole]);
  const strict = alternatives([...everywhere, ...whole, ...unflagged]);
  const swapFirst = (match: string): string => {
    const [first = ""] = match;
    return privateOf(first) + match.slice(first.length);
  };
  const guard = (value: unknown, pattern: RegExp): unknown => {
    if (typeof value === "string") return value.replace(pattern, swapFirst);
    if (Array.isArray(value)) {
      return value.map((item) =>
        guard(item, item !== null && item?.role === "assistant" ? always : pattern),
      );
    }
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [
        key.replace(pattern, swapFirst),
        guard(item, pattern),
      ]),
    );
  };
  const guarded = guard(context, strict) as Record<string, unknown>;
  const signs = alternatives([...originals.keys()]);
  return {
    context: guarded,
    restore: (text) => text.replace(signs, (sign) => originals.get(sign) ?? sign),
  };
}

const FIRST_PRIVATE = 0xe000;
const LAST_PRIVATE = 0xf8ff;

/** The character of a token that a template is least likely to look for in a message. */
function tellingCharacter(content: string): string | undefined {
  return (/\P{ASCII}/u.exec(content) ?? /[^\w\s]/.exec(content.replace(/[<>/]/g, "")))?.[0];
}

/** Matches any of the texts, the longest first; nothing if there is none. */
function alternatives(texts: readonly string[]): RegExp {
  const sorted = [...texts].sort((a, b) => b.length - a.length);
  const escaped = sorted.map((text) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return new RegExp(escaped.length > 0 ? escaped.join("|") : "(?!)", "gu");
}
