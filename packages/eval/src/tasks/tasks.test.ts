import { taskItems } from "@dsv3/data";
import { describe, expect, it } from "vitest";
import { FieldError } from "../document.ts";
import { multipleChoice } from "../multiple-choice.ts";
import { documentOf, taskOf } from "../testing/documents.ts";
import { FakeModel, type FakeOptions } from "../testing/fake-model.ts";
import { EVAL_GROUPS, EVAL_TASKS, selectTasks } from "./registry.ts";

const SETTINGS = { repeats: 1, temperature: 0, seed: 0 };

/** What a task asks about a document, and the values that it makes of the answers. */
async function asked(name: string, record: unknown, options: FakeOptions = {}, repeats = 1) {
  const model = new FakeModel(options);
  const question = taskOf(name).read(documentOf(record));
  const { requests, values } = await question.ask(model, "", { ...SETTINGS, repeats });
  return { requests, values, model, question };
}

// Written by hand from the harness's definitions; harness.test.ts has what it made itself.
describe("prompts", () => {
  it.each<[task: string, record: object, requests: string[][]]>([
    [
      "arc_challenge",
      { question: "Why?", choices: { text: ["so", "no"], label: ["1", "2"] }, answerKey: "2" },
      [
        ["Question: Why?\nAnswer:", " so"],
        ["Question: Why?\nAnswer:", " no"],
      ],
    ],
    [
      "arc_it",
      {
        instruction: " Perché  no? [x]",
        option_a: "sì",
        option_b: "no",
        option_c: null,
        answer: "B",
      },
      [
        ["Question: Perché no? \nAnswer:", " sì"],
        ["Question: Perché no? \nAnswer:", " no"],
      ],
    ],
    [
      "piqa",
      { goal: "Open it", sol1: "push", sol2: "pull", label: 1 },
      [
        ["Question: Open it\nAnswer:", " push"],
        ["Question: Open it\nAnswer:", " pull"],
      ],
    ],
    [
      "boolq",
      { passage: "Tin is soft.", question: "is tin soft", label: 1 },
      [
        ["Tin is soft.\nQuestion: is tin soft?\nAnswer:", " no"],
        ["Tin is soft.\nQuestion: is tin soft?\nAnswer:", " yes"],
      ],
    ],
  ])("%s", async (name, record, expected) => {
    const { requests, question } = await asked(name, record);
    expect(requests).toEqual(expected);
    expect(question.target).toBe(1);
    expect(question.solved).toBe(expected[1]?.join(""));
  });

  it("hellaswag: marks go, double spaces become one once, ctx_b gets a capital", async () => {
    const { requests } = await asked("hellaswag", {
      activity_label: "Tea",
      ctx_a: "Water [header] boils.",
      ctx_b: "he",
      endings: ["pours [a [b] it", "x [title] y", "a   b", "[all] "],
      label: "1",
    });
    const prompt = "Tea: Water boils. He";
    expect(requests).toEqual([
      [prompt, " pours it"],
      [prompt, " x. y"],
      [prompt, " a  b"],
      [prompt, " "],
    ]);
  });

  it("winogrande: the same ending after either option", async () => {
    const record = { sentence: "A _ b. ", option1: "x", option2: "y", answer: "2" };
    const { requests, values, question } = await asked("winogrande", record, {
      logprob: (context) => (context.endsWith("y") ? -1 : -2),
    });
    expect(requests).toEqual([
      ["A x", " b."],
      ["A y", " b."],
    ]);
    expect(question.solved).toBe("A y b.");
    expect(values).toEqual({ "acc,none": 1 });
  });

  it("xcopa_it: the premise without its full stop, a connector, small first letters", async () => {
    const record = { premise: " Piove. ", choice1: "È tardi.", choice2: "Esco.", label: 1 };
    const because = await asked("xcopa_it", { ...record, question: "cause" });
    expect(because.requests[0]).toEqual(["Piove perché", " è tardi."]);
    const so = await asked("xcopa_it", { ...record, question: "effect" });
    expect(so.requests[1]).toEqual(["Piove quindi", " esco."]);
  });

  it("mmlu: letters for choices, the subject before all", async () => {
    const record = { question: " Why? ", choices: ["a", "b", "c", "d"], answer: 3n };
    const { requests, question } = await asked("mmlu_high_school_physics", record);
    const prompt = "Why?\nA. a\nB. b\nC. c\nD. d\nAnswer:";
    expect(requests.map(([first, second]) => [first, second])).toEqual(
      ["A", "B", "C", "D"].map((letter) => [prompt, ` ${letter}`]),
    );
    expect(question.solved).toBe(`${prompt} D`);
    expect(taskOf("mmlu_high_school_physics").description).toBe(
      "The following are multiple choice questions (with answers) about high school physics.\n\n",
    );
  });

  it("lambada: the last word after the others, split at single spaces", async () => {
    const { requests, values } = await asked(
      "lambada_openai",
      { text: 'He said:\n\n"Go  home"' },
      { logprob: () => -2.5, isGreedy: () => true },
    );
    expect(requests).toEqual([['He said:\n\n"Go ', ' home"']]);
    expect(values).toEqual({ "perplexity,none": -2.5, "acc,none": 1 });
  });

  it("blimp: each sentence after nothing", async () => {
    const record = { sentence_good: "It is.", sentence_bad: "It are." };
    const { requests, model, values } = await asked("blimp_wh_island", record, {
      logprob: (_, text) => (text.includes("are") ? -9 : -8),
    });
    expect(requests).toEqual([
      ["", " It is."],
      ["", " It are."],
    ]);
    expect(model.scored).toContainEqual(["^", " It is."]);
    expect(values).toEqual({ "acc,none": 1 });
  });

  it("wikitext: written anew, but counted as it was", async () => {
    const page = " = A = \n B @-@ C , D ( e ) ' s ' \n";
    const { requests, values } = await asked("wikitext", { page });
    expect(requests).toEqual([[" = A =\nB-C, D (e)'s'\n"]]);
    expect(values["bits_per_byte,none"]).toEqual([-requests[0]![0]!.length, page.length]);
    expect(values["word_perplexity,none"]).toEqual([-requests[0]![0]!.length, 16]);
  });

  it("squad_it: background and question; a title where there is one", async () => {
    const record = {
      context: "Roma è grande.",
      question: "Chi?",
      answers: { text: ["Roma", "la Roma"] },
    };
    const answers = () => [" roma!"];
    const { requests, values, question } = await asked("squad_it", record, { answers });
    const prompt = "Background: Roma è grande.\n\nQuestion: Chi?\n\nAnswer:";
    expect(requests).toEqual([[prompt]]);
    expect(values).toEqual({ "exact_match,none": 1, "f1,none": 1 });
    expect(question.solved).toBe(`${prompt} Roma`);
    const titled = await asked("squad_it", { ...record, title: "Città" });
    expect(titled.requests).toEqual([[`Title: Città\n\n${prompt}`]]);
  });

  it("gsm8k: two filters of one answer", async () => {
    const record = { question: "2 + 3?", answer: "It is 5.\n#### 5" };
    const answers = () => [" so\n#### 4 or 5"];
    const { requests, values, question } = await asked("gsm8k", record, { answers });
    expect(requests).toEqual([["Question: 2 + 3?\nAnswer:"]]);
    expect(question.solved).toBe("Question: 2 + 3?\nAnswer: It is 5.\n#### 5");
    expect(values).toEqual({
      "exact_match,strict-match": 0,
      "exact_match,flexible-extract": 1,
    });
  });

  it("rules: what a user says, and pass@k of what is in the boxes", async () => {
    const item = taskItems("reverse", "test", { seed: 3 }).next().value!;
    const right = `\\boxed{${item.answer}}`;
    const answers = () => [right, "\\boxed{no}", "no box", right];
    const { model, values } = await asked("rule_reverse", item, { answers }, 4);
    expect(model.prompts).toEqual([`^<${item.prompt}>`]);
    // 1 − C(2, 2) / C(4, 2)
    expect(values["pass@1,none"]).toBeCloseTo(1 / 2, 12);
    expect(values["pass@2,none"]).toBeCloseTo(5 / 6, 12);
    expect(values["pass@4,none"]).toBe(1);
  });
});

describe("acc_norm", () => {
  // Characters of Python are code points: the fish are two, although they are four units and eight bytes.
  it("divides by characters of the choice, without the space before it; ties go to the first", async () => {
    const record = (texts: string[], answerKey: string) => ({
      question: "?",
      choices: { text: texts, label: ["A", "B", "C"].slice(0, texts.length) },
      answerKey,
    });
    const logprob = (_: string, text: string) => ({ " 🐟🐟": -5, " abc": -6 })[text] ?? -9;
    const fish = await asked("arc_easy", record(["🐟🐟", "abc"], "A"), { logprob });
    // −5 > −6, but −5/2 < −6/3; by UTF-16 units or bytes it would be the fish.
    expect(fish.values).toEqual({ "acc,none": 1, "acc_norm,none": 0 });
    const tie = await asked("arc_easy", record(["ab", "cd", "efgh"], "A"), {
      logprob: (_, text) => (text === " efgh" ? -4 : -2),
    });
    expect(tie.values).toEqual({ "acc,none": 1, "acc_norm,none": 1 });
  });

  it("has a sister that divides by UTF-8 bytes", async () => {
    const task = multipleChoice({
      ...{ name: "fish", version: 1, split: "test", dataset: { path: "made-up", columns: [] } },
      metrics: ["acc_norm", "acc_bytes"],
      question: () => ({ prompt: "?", choices: ["🐟🐟", "abc"], gold: 0 }),
    });
    const logprob = (_: string, text: string) => (text === " abc" ? -6 : -5);
    const question = task.read(documentOf({}));
    const { values } = await question.ask(new FakeModel({ logprob }), "", SETTINGS);
    // −5/2 < −6/3, but −5/8 > −6/3.
    expect(values).toEqual({ "acc_norm,none": 0, "acc_bytes,none": 1 });
  });
});

/** Records that lack something, or have it wrong. */
const BAD: [task: string, record: unknown, message: string][] = [
  ["arc_easy", "text", "made-up.jsonl:1: expected an object, found a string"],
  ["arc_easy", [], "expected an object, found a list"],
  ["arc_easy", {}, "question: expected a text, found nothing"],
  ["arc_easy", { question: 3 }, "question: expected a text, found a number"],
  ["arc_easy", { question: "?", choices: { text: [] } }, "choices.text: the list is empty"],
  [
    "arc_easy",
    { question: "?", choices: { text: ["a", 1] } },
    "choices.text: expected a list of texts",
  ],
  [
    "arc_easy",
    { question: "?", choices: { text: ["a", "b"], label: ["A", "B"] }, answerKey: "C" },
    'answerKey: expected one of A, B, found "C"',
  ],
  [
    "piqa",
    { goal: "g", sol1: "a", sol2: "b", label: 2 },
    "label: expected a whole number from 0 to 1, found 2",
  ],
  ["piqa", { goal: "g", sol1: "a", sol2: "b", label: "" }, "label: expected a whole number"],
  ["piqa", { goal: "g", sol1: "a", sol2: "b", label: -1n }, "found -1"],
  ["winogrande", { sentence: "no blank" }, "sentence: expected a blank, written _"],
  ["boolq", { passage: "p", question: null }, "question: expected a text, found null"],
  [
    "hellaswag",
    { ctx_a: "a", ctx_b: "b", activity_label: "c", endings: "d" },
    "endings: expected a list",
  ],
  [
    "xcopa_it",
    { premise: "p.", question: "why" },
    'question: expected one of cause, effect, found "why"',
  ],
  [
    "xcopa_it",
    { premise: "p.", question: "cause", choice1: "", choice2: "b" },
    "choice1: the text is empty",
  ],
  [
    "arc_it",
    { instruction: "i", option_a: "a", answer: "B" },
    'answer: expected one of A, found "B"',
  ],
  ["mmlu_anatomy", { question: "q", choices: ["a"], answer: 0 }, "choices: expected 4, found 1"],
  ["lambada_openai", { text: "word" }, "text: expected two words at least"],
  ["gsm8k", { question: "q" }, "answer: expected a text, found nothing"],
  [
    "squad_it",
    { context: "c", question: "q", answers: { text: [] } },
    "answers.text: the list is empty",
  ],
  ["humaneval", { prompt: "p", test: "t" }, "entry_point: expected a text"],
  ["wikitext", { page: 1 }, "page: expected a text"],
  [
    "blimp_wh_island",
    { __proto__: { sentence_good: "a" } },
    "sentence_good: expected a text, found nothing",
  ],
];

it.each(BAD)("%s refuses record %#", (task, record, message) => {
  const read = () => taskOf(task).read(documentOf(record));
  expect(read).toThrow(FieldError);
  expect(read).toThrow(message);
});

describe("the registry", () => {
  it("has every name once, and groups of tasks that there are", () => {
    const names = [...EVAL_TASKS, ...EVAL_GROUPS].map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const { members } of EVAL_GROUPS) {
      for (const member of members) expect(names).toContain(member);
    }
    const sizes = EVAL_GROUPS.map(({ name, members }) => [name, members.length]);
    expect(Object.fromEntries(sizes)).toEqual({
      mmlu: 57,
      mmlu_stem: 19,
      mmlu_other: 13,
      mmlu_social_sciences: 12,
      mmlu_humanities: 13,
      blimp: 67,
    });
  });

  it("brings a group's tasks, and the groups within it, none twice", () => {
    const { tasks, groups } = selectTasks(["piqa", "mmlu", "mmlu_anatomy", "piqa"]);
    expect(tasks).toHaveLength(58);
    expect(groups.map(({ name }) => name).sort()).toEqual([
      "mmlu",
      "mmlu_humanities",
      "mmlu_other",
      "mmlu_social_sciences",
      "mmlu_stem",
    ]);
    expect(selectTasks(["mmlu_stem"]).groups).toHaveLength(1);
    expect(() => selectTasks(["arc"])).toThrow('there is no task "arc"');
  });
});
