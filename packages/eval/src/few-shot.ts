/** What comes before a question: the description, and solved documents. */
import { isDeepStrictEqual } from "node:util";
import type { Question, Task } from "./task.ts";

/** Between solved documents, and before the question (`fewshot_delimiter`). */
const DELIMITER = "\n\n";

/** A solved document, and the record it was read from. */
export interface Example {
  readonly record: unknown;
  readonly question: Question;
}

/**
 * The head of document `index`. Which examples a random sampler takes depends on `seed` and `index`
 * alone: not on the harness's random numbers, which are Python's, so that single documents see other
 * examples there. The document itself is none of its own examples.
 * @throws RangeError if there are too few examples
 */
export function fewShotHead(
  task: Task,
  pool: readonly Example[],
  count: number,
  { index, record, seed }: { index: number; record: unknown; seed: number },
): string {
  const description = task.description ?? "";
  if (count === 0) return description;
  const shared = task.fewShot?.split === task.split;
  const others = shared
    ? pool.filter((example) => !isDeepStrictEqual(example.record, record))
    : pool;
  if (others.length < count) {
    throw new RangeError(
      `${task.name}: ${count} examples are wanted, but its split ${task.fewShot?.split} has ${others.length}`,
    );
  }
  const chosen =
    task.fewShot?.sampler === "first" ? others.slice(0, count) : draw(others, count, seed, index);
  return description + chosen.map(({ question }) => question.solved + DELIMITER).join("");
}

/** Some of a list, none twice (Fisher and Yates). */
function draw<T>(list: readonly T[], count: number, seed: number, index: number): T[] {
  const random = randomStream(Math.imul(seed, 0x9e3779b1) ^ index);
  const left = [...list];
  for (let i = 0; i < count; i++) {
    const j = i + Math.floor(random() * (left.length - i));
    [left[i], left[j]] = [left[j] as T, left[i] as T];
  }
  return left.slice(0, count);
}

/** Numbers in [0, 1) (mulberry32). */
function randomStream(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}
