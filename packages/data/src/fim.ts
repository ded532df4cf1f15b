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
  const { fimBegin, fimHole, fimEnd } = tokenizer.special;
  if (fimBegin === undefined || fimHole === undefined || fimEnd === undefined) {
    throw new Error(
      "the tokenizer has no fill-in-the-middle tokens; set the rate to 0 or add them to its vocabulary",
    );
  }
  const cut = () => wholeCharacter(text, Math.floor(random() * (text.length + 1)));
  const [from, to] = [cut(), cut()].sort((a, b) => a - b) as [number, number];
  return [
    fimBegin,
    ...Array.from(tokenizer.encode(text.slice(0, from))),
    fimHole,
    ...Array.from(tokenizer.encode(text.slice(to))),
    fimEnd,
    ...Array.from(tokenizer.encode(text.slice(from, to))),
  ];
}

/** The position, or the one before it inside a surrogate pair. */
function wholeCharacter(text: string, at: number): number {
  const low = text.charCodeAt(at);
  const high = text.charCodeAt(at - 1);
  const inside = low >= 0xdc00 && low <= 0xdfff && high >= 0xd800 && high <= 0xdbff;
  return inside ? at - 1 : at;
}
