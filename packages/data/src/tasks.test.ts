import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { evaluate } from "./expression.ts";
import { italianNumber } from "./italian-numbers.ts";
import { readRecord } from "./record.ts";
import { boxedAnswer, exactReward, formatReward, lengthReward, numberReward } from "./rewards.ts";
import { solves, TASKS, type TaskItem, taskChat, taskItems } from "./tasks.ts";

const take = (items: Generator<TaskItem>, n: number) =>
  Array.from({ length: n }, () => items.next().value as TaskItem);

describe("tasks", () => {
  it.each(TASKS)(
    "%s: its own answers are right, others are not, and splits share nothing",
    (task) => {
      const train = take(taskItems(task, "train", { seed: 1 }), 300);
      const test = take(taskItems(task, "test", { seed: 2 }), 100);
      expect(take(taskItems(task, "train", { seed: 1 }), 300)).toEqual(train);
      for (const item of [...train, ...test]) {
        const chat = taskChat(item);
        expect(readRecord(chat)).toEqual(chat);
        expect(solves(item, chat.messages[1].content), item.prompt).toBe(true);
        expect(solves(item, item.answer)).toBe(false);
        expect(solves(item, "\\boxed{no}")).toBe(false);
      }
      expect(new Set(train.map(({ language }) => language))).toEqual(new Set(["en", "it"]));
      const prompts = new Set(train.map(({ prompt }) => prompt));
      expect(test.filter(({ prompt }) => prompts.has(prompt))).toEqual([]);
      const italian = take(taskItems(task, "train", { seed: 3, languages: ["it"] }), 20);
      expect(italian.every(({ language }) => language === "it")).toBe(true);
    },
  );

  it("answers are what they should be", () => {
    const known: Partial<Record<string, (item: TaskItem) => string>> = {
      reverse: ({ prompt }) => [...(/ (\w+)\.$/.exec(prompt)?.[1] ?? "")].reverse().join(""),
      sort: ({ prompt }) =>
        (prompt.match(/\d+/g) ?? [])
          .map(Number)
          .sort((a, b) => a - b)
          .join(" "),
      "sort-letters": ({ prompt }) => (prompt.match(/\b[a-z]\b/g) ?? []).sort().join(" "),
      arithmetic: ({ prompt }) => String(evaluate(/\d+ . \d+/.exec(prompt)?.[0] ?? "")?.value),
    };
    for (const [task, answer] of Object.entries(known)) {
      for (const item of take(taskItems(task as "sort", "train", { seed: 4 }), 100)) {
        expect(item.answer).toBe(answer?.(item));
      }
    }
  });

  it("countdown takes any way to the target that uses each number once", () => {
    const countdown = { numbers: [2, 3, 4], target: 20 };
    const item: TaskItem = { task: "countdown", language: "en", prompt: "", answer: "", countdown };
    expect(solves(item, "\\boxed{4 * (2 + 3)}")).toBe(true);
    expect(solves(item, "\\boxed{(3+2) × 4}")).toBe(true);
    for (const wrong of ["4 * 5", "4 * 2 + 3", "2 * 3 * 4", "20", "4*(2+3)*2/2"]) {
      expect(solves(item, `\\boxed{${wrong}}`), wrong).toBe(false);
    }
  });

  it("refuses tasks and languages that there are not", () => {
    expect(() => taskItems("chess" as "sort", "train", { seed: 1 }).next()).toThrow("no task");
    expect(() => taskItems("sort", "train", { seed: 1, languages: [] }).next()).toThrow(
      "languages",
    );
  });
});

it("evaluates sums, and nothing else", () => {
  expect(evaluate("2 + 3 * (4 - 1) / 2")).toEqual({ value: 6.5, numbers: [2, 3, 4, 1, 2] });
  expect(evaluate("8-4-2")?.value).toBe(2);
  for (const text of ["", "1 +", "(1", "1)", "1 2", "a", "-1", "1/0", "(".repeat(1e5), "1e3"]) {
    expect(evaluate(text), text.slice(0, 9)).toBeUndefined();
  }
});

it("writes Italian numbers", () => {
  const known = {
    ...{ 0: "zero", 3: "tre", 17: "diciassette", 21: "ventuno", 23: "ventitré", 28: "ventotto" },
    ...{ 88: "ottantotto", 100: "cento", 101: "centouno", 108: "centotto", 180: "centottanta" },
    ...{ 333: "trecentotrentatré", 1000: "mille", 1861: "milleottocentosessantuno" },
    ...{ 2023: "duemilaventitré", 3000: "tremila", 21000: "ventunomila", 100000: "centomila" },
    ...{ 23003: "ventitremilatré" },
  };
  for (const [n, words] of Object.entries(known)) expect(italianNumber(Number(n))).toBe(words);
  const all = Array.from({ length: 100_000 }, (_, n) => italianNumber(n));
  expect(new Set(all).size).toBe(100_000);
  for (const n of [-1, 0.5, 1e6, Number.NaN]) expect(() => italianNumber(n)).toThrow("0 to 999999");
});

describe("rewards", () => {
  it("read the last whole box", () => {
    expect(boxedAnswer("\\boxed{1} so \\boxed{ \\frac{1}{2} }.")).toBe("\\frac{1}{2}");
    expect(boxedAnswer("\\boxed{1} and \\boxed{2")).toBe("1");
    expect(boxedAnswer("\\boxed{")).toBeUndefined();
    expect(boxedAnswer("")).toBeUndefined();
    fc.assert(
      fc.property(fc.string(), fc.stringMatching(/^[a-z0-9 ]*$/), (before, answer) => {
        expect(boxedAnswer(`${before}\\boxed{${answer}}`)).toBe(answer.trim());
      }),
    );
  });

  it("compare texts, numbers, forms and lengths", () => {
    expect(exactReward("cba", "It is \\boxed{cba}.")).toBe(1);
    expect(exactReward("cba", "cba")).toBe(0);
    expect(numberReward(1000, "\\boxed{1,000.0}")).toBe(1);
    expect(numberReward(-2, "\\boxed{-2}")).toBe(1);
    for (const wrong of [
      "1000",
      "\\boxed{}",
      "\\boxed{1,00}",
      "\\boxed{1e3}",
      "\\boxed{a thousand}",
    ]) {
      expect(numberReward(1000, wrong), wrong).toBe(0);
    }
    const form = /<think>.*<\/think>\s*\S+|none/s;
    expect(formatReward(form, "<think>a\nb</think> 4")).toBe(1);
    expect(formatReward(form, "<think>a</think>")).toBe(0);
    expect(formatReward(form, "well, none")).toBe(0);
    const limits = { limit: 100, margin: 20 };
    expect([10, 80, 90, 100, 120].map((n) => lengthReward(n, limits))).toEqual([
      0, 0, -0.5, -1, -1,
    ]);
  });
});
