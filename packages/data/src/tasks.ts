/** Questions made by rule, whose answers a program can check; in English and Italian. */
import { evaluate } from "./expression.ts";
import { italianNumber } from "./italian-numbers.ts";
import { randomStream } from "./random.ts";
import { boxedAnswer } from "./rewards.ts";

export type TaskName =
  | "arithmetic"
  | "reverse"
  | "sort"
  | "sort-letters"
  | "count-letters"
  | "number-to-italian"
  | "italian-to-number"
  | "countdown";

export type TaskLanguage = "en" | "it";

/** Plain JSON. */
export interface TaskItem {
  readonly task: TaskName;
  readonly language: TaskLanguage;
  readonly prompt: string;
  /** The answer; for countdown one of many. */
  readonly answer: string;
  /** Of countdown: what must be used, each once, to reach the target. */
  readonly countdown?: { readonly numbers: readonly number[]; readonly target: number };
}

/** One item in so many goes to the test split. */
const TEST_SHARE = 8;

type Draw = (n: number) => number;
type Made = Pick<TaskItem, "answer" | "countdown"> & { question: Record<TaskLanguage, string> };

const MAKERS: Readonly<Record<TaskName, (draw: Draw) => Made>> = {
  arithmetic(draw) {
    const [a, b] = [draw(100), draw(100)];
    const [sign, value] = (
      [
        ["+", a + b],
        ["-", a - b],
        ["*", a * b],
      ] as const
    )[draw(3)] ?? ["+", 0];
    const sum = `${a} ${sign} ${b}`;
    return { answer: String(value), question: { en: `What is ${sum}?`, it: `Quanto fa ${sum}?` } };
  },
  reverse(draw) {
    const word = letters(draw, 3 + draw(4));
    return {
      answer: [...word].reverse().join(""),
      question: { en: `Reverse ${word}.`, it: `Rovescia ${word}.` },
    };
  },
  sort(draw) {
    const numbers = Array.from({ length: 3 + draw(3) }, () => draw(100));
    const list = numbers.join(" ");
    return {
      answer: numbers.toSorted((a, b) => a - b).join(" "),
      question: { en: `Sort ${list}.`, it: `Ordina ${list}.` },
    };
  },
  "sort-letters"(draw) {
    const all = [...ALPHABET];
    const drawn = Array.from({ length: 3 + draw(5) }, () => all.splice(draw(all.length), 1));
    const list = drawn.join(" ");
    return {
      answer: drawn.flat().sort().join(" "),
      question: { en: `Sort ${list}.`, it: `Ordina ${list}.` },
    };
  },
  "count-letters"(draw) {
    const letter = ALPHABET[draw(ALPHABET.length)] as string;
    // Half of the letters are the one asked for or not, so that the answer is not always 0.
    const word = Array.from({ length: 4 + draw(5) }, () =>
      draw(2) === 0 ? letter : (ALPHABET[draw(ALPHABET.length)] as string),
    ).join("");
    return {
      answer: String([...word].filter((l) => l === letter).length),
      question: {
        en: `How many times is ${letter} in ${word}?`,
        it: `Quante volte ${letter} sta in ${word}?`,
      },
    };
  },
  "number-to-italian"(draw) {
    const n = draw(10 ** (1 + draw(6)));
    return {
      answer: italianNumber(n),
      question: { en: `Write ${n} in Italian words.`, it: `Scrivi ${n} in lettere.` },
    };
  },
  "italian-to-number"(draw) {
    const n = draw(10 ** (1 + draw(6)));
    const words = italianNumber(n);
    return {
      answer: String(n),
      question: { en: `Write ${words} in digits.`, it: `Scrivi ${words} in cifre.` },
    };
  },
  countdown(draw) {
    const numbers = Array.from({ length: 3 + draw(2) }, () => 1 + draw(20));
    const [first, ...others] = numbers as [number, ...number[]];
    let [answer, target] = [String(first), first];
    for (const [i, n] of others.entries()) {
      const sign = "+-*"[draw(target < 100 ? 3 : 2)];
      answer = `${i > 0 ? `(${answer})` : answer} ${sign} ${n}`;
      target = sign === "+" ? target + n : sign === "-" ? target - n : target * n;
    }
    const list = numbers.toSorted((a, b) => a - b).join(" ");
    return {
      answer,
      countdown: { numbers, target },
      question: {
        en: `Make ${target} from ${list}, each once.`,
        it: `Ottieni ${target} da ${list}, ciascuno una volta.`,
      },
    };
  },
};

const ALPHABET = "abcdefghijklmnopqrstuvwxyz";

export const TASKS: readonly TaskName[] = Object.keys(MAKERS) as TaskName[];

/**
 * Items without end, the same for the same arguments. A question belongs to one split by its own
 * text, so that no seed brings a question of the test split into training.
 * @throws RangeError for a task that there is not
 */
export function* taskItems(
  task: TaskName,
  split: "train" | "test",
  { seed, languages = ["en", "it"] }: { seed: number; languages?: readonly TaskLanguage[] },
): Generator<TaskItem> {
  if (!Object.hasOwn(MAKERS, task)) {
    throw new RangeError(`no task ${JSON.stringify(task)}; there are ${TASKS.join(", ")}`);
  }
  if (languages.length === 0) throw new RangeError("languages is empty; expected en, it or both");
  const random = randomStream(seed);
  const draw: Draw = (n) => Math.floor(random() * n);
  for (;;) {
    const { question, ...made } = MAKERS[task](draw);
    const language = languages[draw(languages.length)] as TaskLanguage;
    const isTest = hash(question.en) % TEST_SHARE === 0;
    if (isTest === (split === "test")) {
      yield { task, language, prompt: question[language], ...made };
    }
  }
}

/** An item as a conversation to learn from, its answer in a box. */
export function taskChat({ task, prompt, answer }: TaskItem): {
  messages: [{ role: "user"; content: string }, { role: "assistant"; content: string }];
  source: string;
} {
  const content = `\\boxed{${answer}}`;
  return {
    messages: [
      { role: "user", content: prompt },
      { role: "assistant", content },
    ],
    source: task,
  };
}

/** Whether the last box of a reply holds a right answer. */
export function solves({ answer, countdown }: TaskItem, reply: string): boolean {
  const given = boxedAnswer(reply);
  if (given === undefined || countdown === undefined) return given === answer;
  const found = evaluate(given);
  const sorted = (numbers: readonly number[]) => numbers.toSorted((a, b) => a - b).join(" ");
  return (
    found !== undefined &&
    Math.abs(found.value - countdown.target) < 1e-9 &&
    sorted(found.numbers) === sorted(countdown.numbers)
  );
}

function letters(draw: Draw, count: number): string {
  return Array.from({ length: count }, () => ALPHABET[draw(ALPHABET.length)]).join("");
}

/** FNV-1a, 32 bits, with its high bits mixed into the low ones. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return (h ^ (h >>> 15)) >>> 0;
}
