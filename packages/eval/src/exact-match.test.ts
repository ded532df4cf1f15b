import { describe, expect, it } from "vitest";
import {
  answerF1,
  exactAnswer,
  lastNumber,
  normalAnswer,
  sameNumber,
  strictNumber,
} from "./exact-match.ts";

describe("gsm8k", () => {
  it.each([
    ["It is 5.\n#### 5", "5", "5"],
    ["#### -1,200.50 dollars", "-1,200.50", "-1,200.50"],
    // The first after ####, but the last of all.
    ["#### 3 and #### 4", "3", "4"],
    // Two signs at least, or digits: so a full stop goes along.
    ["costs $600.", "[invalid]", "$600."],
    ["so 7", "[invalid]", "7"],
    ["so 7.", "[invalid]", "7."],
    // What looks like a number to the pattern need not be one.
    ["nothing ... at all", "[invalid]", "..."],
    ["none", "[invalid]", "[invalid]"],
    ["", "[invalid]", "[invalid]"],
    ["####5", "[invalid]", "5"],
    ["٣٤", "[invalid]", "[invalid]"],
  ])("takes the number out of %j", (text, strict, flexible) => {
    expect([strictNumber(text), lastNumber(text)]).toEqual([strict, flexible]);
  });

  it.each([
    ["5", "2 + 3 = <<2+3=5>>5\n#### 5", true],
    ["1,200", "#### 1200", true],
    ["$600.", "#### 600", true],
    ["600.0", "#### 600", false],
    ["5", "#### 5.\n", false],
    ["[invalid]", "#### 5", false],
    ["-2", "#### 2", false],
  ])("compares %j with %j", (answer, reference, same) => {
    expect(sameNumber(answer, reference)).toBe(same);
  });
});

describe("SQuAD", () => {
  it("normalises: small letters, no punctuation, no English articles, single spaces", () => {
    expect(normalAnswer("  The quick, brown-FOX! ")).toBe("quick brownfox");
    expect(normalAnswer("an apple a day, the end")).toBe("apple day end");
    // Articles are words: not parts of any, nor with accents.
    expect(normalAnswer("Athena theà bàn")).toBe("athena theà bàn");
    expect(normalAnswer("l'Italia «nuova»")).toBe("litalia «nuova»");
    expect(normalAnswer("the")).toBe("");
  });

  it.each([
    // answer, references, exact match, F1
    ["nel 1861", ["1861"], 0, 2 / 3],
    ["Nel 1861.", ["1861", "nel 1861"], 1, 1],
    ["a b b c", ["b b d"], 0, 4 / 6],
    ["roma", ["milano"], 0, 0],
    ["", ["roma"], 0, 0],
    ["the", ["a"], 1, 1],
  ])("scores %j against %j", (answer, references, exact, f1) => {
    expect(exactAnswer(answer, references)).toBe(exact);
    expect(answerF1(answer, references)).toBeCloseTo(f1, 12);
  });
});
