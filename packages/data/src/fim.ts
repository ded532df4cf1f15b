/** Fill-in-the-middle documents (section 4.1 of the report; Bavarian et al., arXiv 2207.14255). */
import type { DocumentTokenizer } from "./corpus.ts";

/**
 * A document cut in three, in prefix-suffix-middle order:
 * `<fim_begin> prefix <fim_hole> suffix <fim_end> middle`.
 * @param random numbers in [0, 1): the two cuts, which never split a surrogate pair
 * @throws Error when the tokenizer has no fill-in-the-middle tokens
 */
export function fillInTheMiddle(
  text: string,
  tokenizer: DocumentTokenizer,
  random: () => number,
): number[] {
  const { begin, hole, end } = fimTokens(tokenizer);
  const [prefix, middle, suffix] = cutInThree(text, random);
  const ids = (part: string) => Array.from(tokenizer.encode(part));
  return [begin, ...ids(prefix), hole, ...ids(suffix), end, ...ids(middle)];
}

/** @throws Error when the tokenizer has no fill-in-the-middle tokens */
export function fimTokens({ special }: Pick<DocumentTokenizer, "special">): {
  readonly begin: number;
  readonly hole: number;
  readonly end: number;
} {
  const { fimBegin, fimHole, fimEnd } = special;
  if (fimBegin === undefined || fimHole === undefined || fimEnd === undefined) {
    throw new Error(
      "the tokenizer has no fill-in-the-middle tokens; set the rate to 0 or add them to its vocabulary",
    );
  }
  return { begin: fimBegin, hole: fimHole, end: fimEnd };
}

/** Two cuts, each anywhere between two characters with the same chance. */
export function cutInThree(
  text: string,
  random: () => number,
): readonly [prefix: string, middle: string, suffix: string] {
  const cut = () => wholeCharacter(text, Math.floor(random() * (text.length + 1)));
  const [from, to] = [cut(), cut()].sort((a, b) => a - b) as [number, number];
  return [text.slice(0, from), text.slice(from, to), text.slice(to)];
}

/** The position, or the one before it inside a surrogate pair. */
function wholeCharacter(text: string, at: number): number {
  const low = text.charCodeAt(at);
  const high = text.charCodeAt(at - 1);
  const inside = low >= 0xdc00 && low <= 0xdfff && high >= 0xd800 && high <= 0xdbff;
  return inside ? at - 1 : at;
}
