/** MMLU: 57 subjects in four fields (tasks/mmlu/default of lm-evaluation-harness 0.4.13). */
import { multipleChoice } from "../multiple-choice.ts";
import { strip } from "../python-text.ts";
import type { Task } from "../task.ts";
import type { TaskGroup } from "./group.ts";

const FIELDS: Readonly<Record<string, string>> = {
  stem: `
    abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science
    college_mathematics college_physics computer_security conceptual_physics
    electrical_engineering elementary_mathematics high_school_biology high_school_chemistry
    high_school_computer_science high_school_mathematics high_school_physics
    high_school_statistics machine_learning`,
  other: `
    business_ethics clinical_knowledge college_medicine global_facts human_aging management
    marketing medical_genetics miscellaneous nutrition professional_accounting
    professional_medicine virology`,
  social_sciences: `
    econometrics high_school_geography high_school_government_and_politics
    high_school_macroeconomics high_school_microeconomics high_school_psychology
    human_sexuality professional_psychology public_relations security_studies sociology
    us_foreign_policy`,
  humanities: `
    formal_logic high_school_european_history high_school_us_history high_school_world_history
    international_law jurisprudence logical_fallacies moral_disputes moral_scenarios
    philosophy prehistory professional_law world_religions`,
};

const subjectsOf = (list: string): string[] => list.split(/\s+/).filter((name) => name !== "");

const LETTERS = ["A", "B", "C", "D"];

/** _default_template_yaml, with the description of mmlu_{subject}.yaml */
function subject(name: string): Task {
  return multipleChoice({
    ...{ name: `mmlu_${name}`, version: 1, split: "test" },
    fewShot: { split: "dev", count: 0, sampler: "first" },
    description: `The following are multiple choice questions (with answers) about ${name.replaceAll("_", " ")}.\n\n`,
    dataset: { path: "cais/mmlu", config: name, columns: ["question", "choices", "answer"] },
    metrics: ["acc"],
    question(document) {
      const choices = document.texts("choices");
      if (choices.length !== 4) document.fail("choices", `expected 4, found ${choices.length}`);
      const listed = choices.map((choice, i) => `${LETTERS[i]}. ${choice}\n`).join("");
      return {
        prompt: `${strip(document.text("question"))}\n${listed}Answer:`,
        choices: LETTERS,
        gold: document.index("answer", 4),
      };
    },
  });
}

const members = (field: string): string[] =>
  subjectsOf(FIELDS[field] as string).map((name) => `mmlu_${name}`);

export const MMLU_TASKS: readonly Task[] = Object.values(FIELDS).flatMap(subjectsOf).map(subject);

export const MMLU_GROUPS: readonly TaskGroup[] = [
  { name: "mmlu", version: 2, members: Object.keys(FIELDS).flatMap(members), bySize: true },
  ...Object.keys(FIELDS).map((field) => ({
    ...{ name: `mmlu_${field}`, version: 2, bySize: true },
    members: members(field),
  })),
];
