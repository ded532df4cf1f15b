/** Tasks that ask how likely texts are: LAMBADA, WikiText, and the pairs of BLiMP. */
import { ending, rolling } from "../loglikelihood.ts";
import { multipleChoice } from "../multiple-choice.ts";
import { countPieces, utf8Bytes } from "../python-text.ts";
import type { Task } from "../task.ts";
import type { TaskGroup } from "./group.ts";

/** tasks/lambada/lambada_openai.yaml */
const lambada = ending({
  ...{ name: "lambada_openai", version: 1, split: "test" },
  dataset: { path: "EleutherAI/lambada_openai", config: "default", columns: ["text"] },
  question(document) {
    const text = document.text("text");
    const words = text.split(" ");
    if (words.length < 2) document.fail("text", "expected two words at least");
    return { prompt: words.slice(0, -1).join(" "), ending: ` ${words.at(-1)}` };
  },
});

/** tasks/wikitext/wikitext.yaml, preprocess_wikitext.py: the text is written anew, but counted as it was. */
const wikitext = rolling({
  ...{ name: "wikitext", version: 2, split: "test" },
  dataset: {
    path: "EleutherAI/wikitext_document_level",
    config: "wikitext-2-raw-v1",
    columns: ["page"],
  },
  question(document) {
    const page = document.text("page");
    return { text: detokenize(page), words: countPieces(page), bytes: utf8Bytes(page) };
  },
});

/** In this order; each is done everywhere before the next. */
const DETOKENIZE: readonly (readonly [string | RegExp, string])[] = [
  ["s '", "s'"],
  [/\/' [0-9]\//g, "/'[0-9]/"],
  [" @-@ ", "-"],
  [" @,@ ", ","],
  [" @.@ ", "."],
  [" : ", ": "],
  [" ; ", "; "],
  [" . ", ". "],
  [" ! ", "! "],
  [" ? ", "? "],
  [" , ", ", "],
  [/\(\s*([^)]*?)\s*\)/g, "($1)"],
  [/\[\s*([^\]]*?)\s*\]/g, "[$1]"],
  [/\{\s*([^}]*?)\s*\}/g, "{$1}"],
  [/"\s*([^"]*?)\s*"/g, '"$1"'],
  [/'\s*([^']*?)\s*'/g, "'$1'"],
  ["= = = =", "===="],
  ["= = =", "==="],
  ["= =", "=="],
  [" ° ", "°"],
  [" \n", "\n"],
  ["\n ", "\n"],
  [" N ", " 1 "],
  [" 's", "'s"],
];

function detokenize(page: string): string {
  return DETOKENIZE.reduce((text, [from, to]) => text.replaceAll(from, to), page);
}

const PARADIGMS = `
  adjunct_island anaphor_gender_agreement anaphor_number_agreement animate_subject_passive
  animate_subject_trans causative complex_NP_island
  coordinate_structure_constraint_complex_left_branch
  coordinate_structure_constraint_object_extraction determiner_noun_agreement_1
  determiner_noun_agreement_2 determiner_noun_agreement_irregular_1
  determiner_noun_agreement_irregular_2 determiner_noun_agreement_with_adj_2
  determiner_noun_agreement_with_adj_irregular_1 determiner_noun_agreement_with_adj_irregular_2
  determiner_noun_agreement_with_adjective_1 distractor_agreement_relational_noun
  distractor_agreement_relative_clause drop_argument ellipsis_n_bar_1 ellipsis_n_bar_2
  existential_there_object_raising existential_there_quantifiers_1 existential_there_quantifiers_2
  existential_there_subject_raising expletive_it_object_raising inchoative intransitive
  irregular_past_participle_adjectives irregular_past_participle_verbs
  irregular_plural_subject_verb_agreement_1 irregular_plural_subject_verb_agreement_2
  left_branch_island_echo_question left_branch_island_simple_question
  matrix_question_npi_licensor_present npi_present_1 npi_present_2 only_npi_licensor_present
  only_npi_scope passive_1 passive_2 principle_A_c_command principle_A_case_1 principle_A_case_2
  principle_A_domain_1 principle_A_domain_2 principle_A_domain_3 principle_A_reconstruction
  regular_plural_subject_verb_agreement_1 regular_plural_subject_verb_agreement_2
  sentential_negation_npi_licensor_present sentential_negation_npi_scope sentential_subject_island
  superlative_quantifiers_1 superlative_quantifiers_2 tough_vs_raising_1 tough_vs_raising_2
  transitive wh_island wh_questions_object_gap wh_questions_subject_gap
  wh_questions_subject_gap_long_distance wh_vs_that_no_gap wh_vs_that_no_gap_long_distance
  wh_vs_that_with_gap wh_vs_that_with_gap_long_distance`
  .split(/\s+/)
  .filter((name) => name !== "");

/** tasks/blimp/_template_yaml: which of two sentences is likelier, after nothing. */
const blimp = PARADIGMS.map((paradigm) =>
  multipleChoice({
    ...{ name: `blimp_${paradigm}`, version: 1, split: "train" },
    dataset: {
      path: "nyu-mll/blimp",
      config: paradigm,
      columns: ["sentence_good", "sentence_bad"],
    },
    metrics: ["acc"],
    question: (document) => ({
      prompt: "",
      choices: [document.text("sentence_good"), document.text("sentence_bad")],
      gold: 0,
    }),
  }),
);

export const LANGUAGE_TASKS: readonly Task[] = [lambada, wikitext, ...blimp];

/** tasks/blimp/_blimp.yaml */
export const BLIMP: TaskGroup = {
  name: "blimp",
  version: 2,
  members: blimp.map(({ name }) => name),
  bySize: false,
};
