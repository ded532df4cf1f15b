/**
 * What a run tells while it goes on, a line or a record for each step: metrics.jsonl, the same for
 * TensorBoard beside it, and the loads of the experts in loads.jsonl.
 */
import { appendFile, readdir, readFile, rm, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { replaceFile } from "./run-folder.ts";
import { scalarsOf } from "./scalars.ts";
import { eventFileHead, eventFileName, eventRecord, isEventFile } from "./tensorboard.ts";

/** Tokens that each expert took, for each layer that routes: [layers][experts]. */
export type ExpertLoads = readonly (readonly number[])[];

/** Lines of loads.jsonl in a run, at most. */
const MOST_LOADS = 200;

export class RunLog {
  readonly #dir: string;
  readonly #events: string;
  readonly #loadsEvery: number;

  private constructor(dir: string, events: string, steps: number) {
    this.#dir = dir;
    this.#events = events;
    this.#loadsEvery = Math.ceil(steps / MOST_LOADS);
  }

  /**
   * Goes on after `step` (0: from the start) in a run's folder. Lines of later steps, which will be
   * done again, go; the event file is written anew from the metrics that stay, so that it always
   * says the same as they do.
   * @param steps of the whole run, which the rows of loads.jsonl are spread over
   */
  static async open(dir: string, step: number, steps: number): Promise<RunLog> {
    const metrics = await forgetAfter(join(dir, "metrics.jsonl"), step);
    await forgetAfter(join(dir, "loads.jsonl"), step);
    const old = (await readdir(dir)).filter(isEventFile);
    const now = Date.now() / 1e3;
    const events = join(dir, eventFileName(now));
    const trained = metrics.map((line) => line.seconds ?? 0);
    const end = trained.at(-1) ?? 0;
    const records = metrics.map((line, i) => eventOf(line, now - end + (trained[i] as number)));
    await replaceFile(events, Buffer.concat([eventFileHead(now, 1), ...records]));
    for (const name of old) {
      if (join(dir, name) !== events) await retire(join(dir, name));
    }
    return new RunLog(dir, events, steps);
  }

  /** A step's metrics, of any names; records of numbers in it are metrics `record/name`. */
  async write(line: { readonly step: number }, loads: ExpertLoads): Promise<void> {
    const { step } = line;
    await appendFile(join(this.#dir, "metrics.jsonl"), `${JSON.stringify(line)}\n`);
    await appendFile(this.#events, eventOf(line, Date.now() / 1e3));
    if (loads.length > 0 && step % this.#loadsEvery === 0) {
      await appendFile(join(this.#dir, "loads.jsonl"), `${JSON.stringify({ step, loads })}\n`);
    }
  }
}

/**
 * Takes an event file out of use. A TensorBoard that is reading it moves on to the next only while
 * it is there, so it stays, empty, until the run is gone on with once more.
 */
async function retire(file: string): Promise<void> {
  if ((await stat(file)).size > 0) await truncate(file);
  else await rm(file);
}

type Line = { readonly step: number; readonly seconds?: number };

function eventOf(line: Line, wallTime: number): Uint8Array {
  const scalars = scalarsOf(line).filter(([name]) => name !== "step");
  const tagged = scalars.map(
    ([name, value]) => [name.includes("/") ? name : `train/${name}`, value] as const,
  );
  return eventRecord({ step: line.step, wallTime, scalars: tagged });
}

/** Steps after `step` are done again: their lines go, by writing a new file in place of the old. */
async function forgetAfter(file: string, step: number): Promise<Line[]> {
  const text = await readFile(file, "utf8").catch(() => "");
  const kept = text.split("\n").flatMap((line) => {
    const parsed = lineOf(line);
    return parsed && parsed.step <= step ? [{ line, parsed }] : [];
  });
  if (text !== "") await replaceFile(file, kept.map(({ line }) => `${line}\n`).join(""));
  return kept.map(({ parsed }) => parsed);
}

/** Undefined for what a process that died has left half written. */
function lineOf(line: string): Line | undefined {
  try {
    const value = JSON.parse(line) as Line;
    return Number.isInteger(value?.step) ? value : undefined;
  } catch {
    return undefined;
  }
}
