/** Tasks of several choices. Prompts are those of lm-evaluation-harness 0.4.13; each names its file there. */
import type { Document } from "../document.ts";
import { multipleChoice } from "../multiple-choice.ts";
import { capitalize, strip } from "../python-text.ts";
import type { FewShot, Task } from "../task.ts";

const random = (split: string): FewShot => ({ split, count: 0, sampler: "random" });

/** tasks/arc/arc_easy.yaml, arc_challenge.yaml */
const arc = (name: string, config: string): Task =>
  multipleChoice({
    ...{ name, version: 1, split: "test", fewShot: random("train") },
    dataset: { path: "allenai/ai2_arc", config, columns: ["question", "choices", "answerKey"] },
    metrics: ["acc", "acc_norm"],
    question: (document) => ({
      prompt: `Question: ${document.text("question")}\nAnswer:`,
      choices: document.texts("choices.text"),
      gold: document.oneOf("answerKey", document.texts("choices.label")),
    }),
  });

/** tasks/okapi/arc_multilingual/_arc_yaml, utils.py */
const arcIt = multipleChoice({
  ...{ name: "arc_it", version: 2, split: "test", fewShot: random("train") },
  dataset: {
    path: "alexandrainst/m_arc",
    config: "it",
    columns: ["instruction", "option_a … option_e", "answer"],
  },
  metrics: ["acc", "acc_norm"],
  question(document) {
    const options = ["a", "b", "c", "d", "e"].map((letter) =>
      document.optionalText(`option_${letter}`),
    );
    const choices = options.filter((option) => option !== null && option !== "");
    return {
      prompt: `Question: ${withoutBrackets(document.text("instruction"))}\nAnswer:`,
      choices: choices.map((option) => withoutBrackets(option as string)),
      gold: document.oneOf("answer", ["A", "B", "C", "D", "E"].slice(0, choices.length)),
    };
  },
});

/** tasks/piqa/piqa.yaml */
const piqa = multipleChoice({
  ...{ name: "piqa", version: 1, split: "validation", fewShot: random("train") },
  dataset: { path: "baber/piqa", columns: ["goal", "sol1", "sol2", "label"] },
  metrics: ["acc", "acc_norm"],
  question: (document) => ({
    prompt: `Question: ${document.text("goal")}\nAnswer:`,
    choices: [document.text("sol1"), document.text("sol2")],
    gold: document.index("label", 2),
  }),
});

/** tasks/super_glue/boolq/default.yaml */
const boolq = multipleChoice({
  ...{ name: "boolq", version: 2, split: "validation", fewShot: random("train") },
  dataset: { path: "aps/super_glue", config: "boolq", columns: ["passage", "question", "label"] },
  metrics: ["acc"],
  question: (document) => ({
    prompt: `${document.text("passage")}\nQuestion: ${document.text("question")}?\nAnswer:`,
    choices: ["no", "yes"],
    gold: document.index("label", 2),
  }),
});

/** tasks/hellaswag/hellaswag.yaml, utils.py */
const hellaswag = multipleChoice({
  ...{ name: "hellaswag", version: 1, split: "validation", fewShot: random("train") },
  dataset: {
    path: "Rowan/hellaswag",
    columns: ["activity_label", "ctx_a", "ctx_b", "endings", "label"],
  },
  metrics: ["acc", "acc_norm"],
  question(document) {
    const context = `${document.text("ctx_a")} ${capitalize(document.text("ctx_b"))}`;
    const choices = document.texts("endings").map(withoutBrackets);
    return {
      prompt: withoutBrackets(`${document.text("activity_label")}: ${context}`),
      choices,
      gold: document.index("label", choices.length),
    };
  },
});

/** WikiHow's marks: a title becomes a full stop, other brackets go, and so do double spaces, once. */
function withoutBrackets(text: string): string {
  return strip(text)
    .replaceAll(" [title]", ". ")
    .replaceAll(/\[[^\n]*?\]/g, "")
    .replaceAll("  ", " ");
}

/** tasks/winogrande/default.yaml, preprocess_winogrande.py */
const winogrande = multipleChoice({
  ...{ name: "winogrande", version: 1, split: "validation", fewShot: random("train") },
  dataset: {
    path: "allenai/winogrande",
    config: "winogrande_xl",
    columns: ["sentence", "option1", "option2", "answer"],
  },
  metrics: ["acc"],
  question(document) {
    const sentence = document.text("sentence");
    const at = sentence.indexOf("_");
    if (at < 0) document.fail("sentence", "expected a blank, written _");
    return {
      prompt: "",
      choices: ["option1", "option2"].map((name) => sentence.slice(0, at) + document.text(name)),
      ending: strip(sentence.slice(at + 1)),
      gold: document.oneOf("answer", ["1", "2"]),
    };
  },
});

/** tasks/xcopa/default_it.yaml, utils.py */
const xcopaIt = multipleChoice({
  ...{ name: "xcopa_it", version: 1, split: "test", fewShot: random("validation") },
  dataset: {
    path: "cambridgeltl/xcopa",
    config: "it",
    columns: ["premise", "question", "choice1", "choice2", "label"],
  },
  metrics: ["acc"],
  question(document) {
    const asked = document.oneOf("question", ["cause", "effect"]);
    const premise = [...strip(document.text("premise"))].slice(0, -1).join("");
    return {
      prompt: `${premise} ${["perché", "quindi"][asked]}`,
      choices: ["choice1", "choice2"].map((name) => smallFirst(document, name)),
      gold: document.index("label", 2),
    };
  },
});

function smallFirst(document: Document, name: string): string {
  const [first, ...rest] = document.text(name);
  if (first === undefined) return document.fail(name, "the text is empty");
  return first.toLowerCase() + rest.join("");
}

export const CHOICE_TASKS: readonly Task[] = [
  arc("arc_easy", "ARC-Easy"),
  arc("arc_challenge", "ARC-Challenge"),
  arcIt,
  piqa,
  boolq,
  hellaswag,
  winogrande,
  xcopaIt,
];
