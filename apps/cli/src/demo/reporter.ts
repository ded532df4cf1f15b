/** What a person sees of the demo; nothing with `--json`, whose one document is all of stdout. */
import type { Io } from "../io.ts";
import type { Sample } from "../report/run-data.ts";
import { formatCount, formatDuration } from "../ui/format.ts";
import { styler } from "../ui/style.ts";
import { renderTable } from "../ui/table.ts";
import type { Lesson, Scores } from "./lesson.ts";

/** What one model came to. */
export interface Outcome {
  readonly name: string;
  readonly parameters: number;
  /** Per token. */
  readonly active: number;
  readonly steps: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly bitsPerByte: number;
}

/** What the demo leaves, as far as it came. */
interface Left {
  /** Continues English. */
  readonly model: string;
  /** Answers questions of the task. */
  readonly chat?: string;
  readonly report?: string;
  readonly seconds: number;
}

const right = { align: "right" as const };
const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

export class Reporter {
  readonly #style: ReturnType<typeof styler>;
  readonly #line: (text: string) => void;

  constructor(io: Io, quiet: boolean) {
    this.#style = styler(io.stdout, io.env);
    this.#line = quiet ? () => {} : (text) => io.stdout.write(`${text}\n`);
  }

  title(text: string): void {
    this.#line(`\n${this.#style("bold", text)}\n`);
  }

  fact(name: string, text: string): void {
    this.#line(`${this.#style("cyan", name.padEnd(10))}  ${text}`);
  }

  samples(samples: readonly Sample[]): void {
    for (const { prompt, text } of samples) {
      this.#line(`\n${this.#style("bold", prompt)}${text.replace(/\s+/g, " ").trimEnd()} …`);
    }
    if (samples.length > 0) this.#line("");
  }

  lesson({ questions, afterFineTuning, afterRewards, answers }: Lesson): void {
    if (afterFineTuning === undefined || afterRewards === undefined) return;
    const columns = [
      { title: `right on ${questions} unseen questions` },
      { title: "after examples", ...right },
      { title: "after rewards", ...right },
    ];
    const row = (name: string, by: keyof Scores) => [
      name,
      percent(afterFineTuning[by]),
      percent(afterRewards[by]),
    ];
    this.#table(columns, [
      row("likeliest answer", "greedy"),
      row("answer drawn at random", "sampled"),
    ]);
    if (afterFineTuning.sampled === 0) {
      this.#line("It was never right after the examples, so that there was nothing to reward.");
      this.#line("A longer training mends that: --seconds with a higher number.\n");
    }
    for (const { prompt, text } of answers) this.#line(`${this.#style("bold", prompt)}  ${text}`);
  }

  comparison(outcomes: readonly Outcome[]): void {
    const columns = [
      { title: "model" },
      { title: "active", ...right },
      { title: "parameters", ...right },
      { title: "tokens", ...right },
      { title: "tokens/s", ...right },
      { title: "held-out bits per byte", ...right },
    ];
    const rows = outcomes.map((o) => [
      o.name,
      formatCount(o.active),
      formatCount(o.parameters),
      formatCount(o.tokens),
      formatCount(o.tokensPerSecond),
      o.bitsPerByte.toFixed(4),
    ]);
    this.#table(columns, rows);
  }

  next({ model, chat, report, seconds }: Left): void {
    const curves = report ? ` Its curves are in ${this.#style("bold", report)}.` : "";
    this.#line(`\nSaved after ${formatDuration(seconds)}.${curves} Now try:\n`);
    if (chat) {
      this.#line(`  npm run -s dsv3 -- chat --model ${chat}   # and ask it: Sort q d k a.`);
    }
    this.#line(`  npm run -s dsv3 -- generate --model ${model} --prompt "My fellow citizens"`);
    this.#line(`  npm run -s dsv3 -- inspect --model ${model}`);
    this.#line("  npm run -s dsv3 -- demo --seconds 600   # it learns more the longer it reads\n");
  }

  #table(columns: Parameters<typeof renderTable>[0], rows: readonly string[][]): void {
    this.#line(`\n${renderTable(columns, rows).trimEnd()}\n`);
  }
}
