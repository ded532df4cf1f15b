/** Texts that say the same: extraction of answers and their comparison, as the harness and SQuAD do it. */
import { strip, words } from "./python-text.ts";

/** What a filter gives where it finds nothing. */
const INVALID = "[invalid]";

/** The first number after `####` (filter `strict-match` of gsm8k). */
export function strictNumber(text: string): string {
  const match = /#### (-?[0-9.,]+)/.exec(text);
  return match === null ? INVALID : strip(match[1] as string);
}

/** The last number in a text (filter `flexible-extract` of gsm8k). */
export function lastNumber(text: string): string {
  const matches = text.match(/-?[$0-9.,]{2,}|-?[0-9]+/g);
  return matches === null ? INVALID : strip(matches.at(-1) as string);
}

/**
 * Whether two answers are the same to gsm8k: without commas, dollars, what stands before `#### `, a
 * full stop at the end, and in small letters.
 */
export function sameNumber(answer: string, reference: string): boolean {
  const normal = (text: string) =>
    text
      .replaceAll(/[,$]/g, "")
      .replace(/.*#### /s, "")
      .replace(/\.(?=\n?$)/, "")
      .toLowerCase();
  return normal(answer) === normal(reference);
}

/** `string.punctuation` of Python. */
const PUNCTUATION = /[!-/:-@[-`{-~]/g;

/** In small letters, without punctuation, English articles and more than one space (SQuAD's evaluate-v2.0.py). */
export function normalAnswer(text: string): string {
  const plain = text.toLowerCase().replaceAll(PUNCTUATION, "");
  return words(plain.replaceAll(/(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])/gu, " ")).join(
    " ",
  );
}

/** Whether an answer is, normalised, one of the references: 1 or 0. */
export function exactAnswer(answer: string, references: readonly string[]): number {
  const given = normalAnswer(answer);
  return references.some((reference) => normalAnswer(reference) === given) ? 1 : 0;
}

/** The best overlap in words with one of the references: harmonic mean of precision and recall. */
export function answerF1(answer: string, references: readonly string[]): number {
  const given = words(normalAnswer(answer));
  return Math.max(...references.map((reference) => overlap(given, words(normalAnswer(reference)))));
}

function overlap(given: readonly string[], gold: readonly string[]): number {
  // Where nothing is left of one of them, they are the same only if nothing is left of both.
  if (given.length === 0 || gold.length === 0) return given.length === gold.length ? 1 : 0;
  const left = new Map<string, number>();
  for (const word of gold) left.set(word, (left.get(word) ?? 0) + 1);
  let same = 0;
  for (const word of given) {
    const count = left.get(word) ?? 0;
    if (count > 0) same++;
    left.set(word, count - 1);
  }
  if (same === 0) return 0;
  const [precision, recall] = [same / given.length, same / gold.length];
  return (2 * precision * recall) / (precision + recall);
}
