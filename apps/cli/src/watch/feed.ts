/** What there is to see of runs, and what of it a reader has not been sent. */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { totalSteps } from "@dsv3/train";
import { type FoundRun, findRuns } from "../runs/find.ts";
import { JsonLines } from "../runs/json-lines.ts";
import { jsonFile } from "../runs/machine.ts";
import { type Point, Series } from "../runs/series.ts";

/** A run as the page lists it. */
export interface RunEntry {
  readonly id: string;
  readonly name: string;
  /** Steps of the whole run, where its settings are known. */
  readonly planned: number | null;
  /** When its metrics were written last, in milliseconds since 1970. */
  readonly updated: number | null;
}

/** Points of a run, from the place `from` on; what a reader had from there on is no longer right. */
export interface PointsMessage {
  readonly id: string;
  readonly from: number;
  readonly step: readonly number[];
  readonly tokens: readonly (number | null)[];
  readonly seconds: readonly (number | null)[];
  readonly metrics: Readonly<Record<string, Columns>>;
}

/** Null where a point has no value; the ends are there where points stand for several steps. */
export interface Columns {
  readonly mean: readonly (number | null)[];
  readonly min?: readonly (number | null)[];
  readonly max?: readonly (number | null)[];
}

export type Message =
  | { readonly type: "runs"; readonly runs: readonly RunEntry[] }
  | ({ readonly type: "points" } & PointsMessage);

interface Followed {
  readonly found: FoundRun;
  readonly lines: JsonLines;
  readonly series: Series;
  entry: RunEntry;
}

export class Feed {
  readonly #roots: readonly string[];
  readonly #runs = new Map<string, Followed>();

  constructor(roots: readonly string[]) {
    this.#roots = roots;
  }

  /**
   * Looks for runs, and reads what has been written since the last time. Readers may be asked
   * meanwhile: they give what has been read so far.
   */
  async refresh(): Promise<void> {
    const found = await findRuns(this.#roots);
    const ids = new Set(found.map(({ id }) => id));
    for (const id of this.#runs.keys()) if (!ids.has(id)) this.#runs.delete(id);
    await Promise.all(found.map((run) => this.#read(run)));
  }

  async #read(found: FoundRun): Promise<void> {
    const file = join(found.dir, "metrics.jsonl");
    let run = this.#runs.get(found.id);
    if (run === undefined) {
      const entry = { id: found.id, name: found.name, planned: null, updated: null };
      run = { found, lines: new JsonLines(file), series: new Series(), entry };
      this.#runs.set(found.id, run);
    }
    const { series, lines } = run;
    // A file that cannot be read for now has no news.
    const add = (line: unknown) => series.add(line);
    await lines.read(add, () => series.clear()).catch(() => {});
    const written = await stat(file).catch(() => undefined);
    run.entry = {
      ...{ id: found.id, name: found.name },
      planned: run.entry.planned ?? (await plannedSteps(found.dir)),
      updated: written ? Math.round(written.mtimeMs) : null,
    };
  }

  /** A reader who has been sent nothing: each call gives what is new to it. */
  reader(): () => Message[] {
    const sent = new Map<string, { version: number; length: number; revision: number }>();
    let entries = "";
    return () => {
      const messages: Message[] = [];
      const runs = [...this.#runs.values()]
        .map(({ entry }) => entry)
        .sort((a, b) => (a.name < b.name ? -1 : 1));
      const now = JSON.stringify(runs);
      if (now !== entries) messages.push({ type: "runs", runs });
      entries = now;
      for (const id of sent.keys()) if (!this.#runs.has(id)) sent.delete(id);
      for (const [id, { series }] of this.#runs) {
        const before = sent.get(id);
        const { version, revision, points } = series;
        if (before?.revision === revision) continue;
        // The last point that was sent may stand for more by now.
        const from = before?.version === version ? Math.max(0, before.length - 1) : 0;
        messages.push({ type: "points", id, from, ...columnsOf(series, from) });
        sent.set(id, { version, length: points.length, revision });
      }
      return messages;
    };
  }
}

async function plannedSteps(dir: string): Promise<number | null> {
  const { settings } = ((await jsonFile(join(dir, "run.json"))) ?? {}) as { settings?: unknown };
  try {
    const steps = totalSteps(settings as Parameters<typeof totalSteps>[0]);
    return Number.isFinite(steps) ? steps : null;
  } catch {
    return null;
  }
}

function columnsOf(series: Series, from: number): Omit<PointsMessage, "id" | "from"> {
  const points = series.points.slice(from);
  const metrics = [...series.names].flatMap((name) => {
    const spreads = points.map(({ values }) => values.get(name));
    if (from > 0 && spreads.every((spread) => spread === undefined)) return [];
    const column = (part: "mean" | "min" | "max") =>
      spreads.map((spread) => number(spread?.[part]));
    const ends = series.stride > 1 ? { min: column("min"), max: column("max") } : {};
    return [[name, { mean: column("mean"), ...ends }] as const];
  });
  const position = (of: (point: Point) => number | undefined) => points.map((p) => number(of(p)));
  return {
    step: points.map(({ step }) => step),
    tokens: position(({ tokens }) => tokens),
    seconds: position(({ seconds }) => seconds),
    metrics: Object.fromEntries(metrics),
  };
}

/** Rounded to what a picture shows, since most of what is sent are digits. */
function number(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? Number(value.toPrecision(7)) : null;
}
