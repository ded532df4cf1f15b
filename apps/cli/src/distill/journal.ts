/** What was distilled so far: a line for each question, in a file beside the one that it becomes. */
import { appendFile, readFile, rm, writeFile } from "node:fs/promises";
import { isDeepStrictEqual } from "node:util";
import type { Distilled } from "@dsv3/data";
import { replaceFile } from "../runs/machine.ts";

export class Journal {
  readonly #out: string;
  readonly #done: Map<number, Distilled>;

  private constructor(out: string, done: Map<number, Distilled>) {
    this.#out = out;
    this.#done = done;
  }

  /**
   * Goes on with what is there, or begins.
   * @param settings plain JSON, which must be those that the journal was begun with
   * @throws Error when it was begun with others, or the result is there already
   */
  static async open(out: string, settings: object): Promise<Journal> {
    if ((await readFile(out).catch(() => undefined)) !== undefined) {
      throw new Error(`${out} exists already; give another --out`);
    }
    const file = partOf(out);
    const text = await readFile(file, "utf8").catch(() => undefined);
    if (text === undefined) {
      await writeFile(file, `${JSON.stringify(settings)}\n`);
      return new Journal(out, new Map());
    }
    // The last line may be half written: what follows the last line break is done again.
    const [head = "", ...lines] = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
    const begun: unknown = head === "" ? settings : JSON.parse(head);
    if (!isDeepStrictEqual(begun, JSON.parse(JSON.stringify(settings)))) {
      throw new Error(`${file} was begun with other settings; give the same, or remove it`);
    }
    const done = new Map<number, Distilled>();
    for (const line of lines.filter((line) => line !== "")) {
      const { index, ...distilled } = JSON.parse(line) as Distilled & { index: number };
      done.set(index, distilled);
    }
    const whole = [...done].map(([index, d]) => `${JSON.stringify({ index, ...d })}\n`);
    await replaceFile(file, [`${JSON.stringify(settings)}\n`, ...whole].join(""));
    return new Journal(out, done);
  }

  has(index: number): boolean {
    return this.#done.has(index);
  }

  get size(): number {
    return this.#done.size;
  }

  async add(index: number, distilled: Distilled): Promise<void> {
    this.#done.set(index, distilled);
    await appendFile(partOf(this.#out), `${JSON.stringify({ index, ...distilled })}\n`);
  }

  /** Writes the conversations in the order of their questions, and removes the journal. */
  async finish(): Promise<{ chats: number; accepted: number; attempts: number; answered: number }> {
    const all = [...this.#done].sort(([a], [b]) => a - b).map(([, distilled]) => distilled);
    const chats = all.flatMap(({ chats }) => chats);
    await replaceFile(this.#out, chats.map((chat) => `${JSON.stringify(chat)}\n`).join(""));
    await rm(partOf(this.#out));
    const total = (count: (d: Distilled) => number) => all.reduce((sum, d) => sum + count(d), 0);
    return {
      chats: chats.length,
      accepted: total((d) => d.accepted),
      attempts: total((d) => d.attempts),
      answered: total((d) => (d.accepted > 0 ? 1 : 0)),
    };
  }
}

function partOf(out: string): string {
  return `${out}.part`;
}
