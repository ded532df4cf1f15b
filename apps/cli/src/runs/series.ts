/** The metrics of a run over its steps, in memory that does not grow with the run. */
import { scalarsOf } from "@dsv3/train";

/** Neighbouring steps that are shown as one point. */
export interface Point {
  /** Of its last step, as are tokens and seconds, where they are known. */
  step: number;
  tokens: number | undefined;
  seconds: number | undefined;
  /** Steps that it stands for. */
  count: number;
  readonly values: Map<string, Spread>;
}

/** What a metric was within a point. */
export interface Spread {
  count: number;
  mean: number;
  min: number;
  max: number;
}

/** Positions in the run, which are no metrics of their own. */
const POSITIONS = new Set(["step", "tokens", "seconds", "phase"]);
/** A file with more names than these is no run's. */
const MOST_NAMES = 300;
const LONGEST_NAME = 200;

/**
 * At most `limit` points: when there are more, neighbours are joined by twos, so that a point of a
 * long run stands for many steps. It keeps their mean, least and greatest: no spike is lost.
 */
export class Series {
  readonly points: Point[] = [];
  /** In the order of their first appearance. */
  readonly names: Set<string> = new Set();
  /** Steps in a point, but for the last. */
  stride: number = 1;
  /** Changes when points before the last have changed. */
  version: number = 0;
  /** Changes with every line. */
  revision: number = 0;
  readonly #limit: number;

  constructor(limit = 2000) {
    this.#limit = limit;
  }

  clear(): void {
    this.points.length = 0;
    this.names.clear();
    this.stride = 1;
    this.version++;
    this.revision++;
  }

  /** Takes a line of metrics.jsonl; one without a step is nothing. A step again, of a run gone on with, replaces what follows it. */
  add(line: unknown): void {
    if (typeof line !== "object" || line === null || Array.isArray(line)) return;
    const { step, tokens, seconds } = line as Record<string, unknown>;
    const at = finite(step);
    if (at === undefined) return;
    this.revision++;
    this.#forgetFrom(at);
    let last = this.points.at(-1);
    if (last === undefined || last.count >= this.stride) {
      if (this.points.length >= this.#limit) this.#halve();
      last = { step: at, tokens: undefined, seconds: undefined, count: 0, values: new Map() };
      this.points.push(last);
    }
    last.step = at;
    last.tokens = finite(tokens) ?? last.tokens;
    last.seconds = finite(seconds) ?? last.seconds;
    last.count++;
    for (const [name, value] of scalarsOf(line)) {
      if (!POSITIONS.has(name) && this.#known(name)) {
        join(last.values, name, 1, value, value, value);
      }
    }
  }

  /** The last value of a metric. */
  last(name: string): number | undefined {
    return this.points.findLast(({ values }) => values.has(name))?.values.get(name)?.mean;
  }

  #known(name: string): boolean {
    if (this.names.has(name)) return true;
    if (this.names.size >= MOST_NAMES || name.length > LONGEST_NAME) return false;
    this.names.add(name);
    return true;
  }

  #forgetFrom(step: number): void {
    let last = this.points.at(-1);
    if (last === undefined || last.step < step) return;
    while (last !== undefined && last.step >= step) {
      this.points.pop();
      last = this.points.at(-1);
    }
    this.version++;
  }

  #halve(): void {
    const { points } = this;
    const half = Math.ceil(points.length / 2);
    for (let i = 0; i < half; i++) {
      const first = points[2 * i] as Point;
      const second = points[2 * i + 1];
      if (second) {
        for (const [name, { count, mean, min, max }] of second.values) {
          join(first.values, name, count, mean, min, max);
        }
        first.step = second.step;
        first.tokens = second.tokens ?? first.tokens;
        first.seconds = second.seconds ?? first.seconds;
        first.count += second.count;
      }
      points[i] = first;
    }
    points.length = half;
    this.stride *= 2;
    this.version++;
  }
}

/** The metric that says how a run goes: rewards where there are any, else the loss of the next token. */
export function mainMetric(names: ReadonlySet<string>): string | undefined {
  return ["reward", "mainLoss", "loss"].find((name) => names.has(name)) ?? [...names][0];
}

/** In numbers, not in an object: a long file has millions of them. */
function join(
  values: Point["values"],
  name: string,
  ...[count, mean, min, max]: readonly [count: number, mean: number, min: number, max: number]
): void {
  const spread = values.get(name);
  if (spread === undefined) {
    values.set(name, { count, mean, min, max });
    return;
  }
  spread.count += count;
  spread.mean += (mean - spread.mean) * (count / spread.count);
  spread.min = Math.min(spread.min, min);
  spread.max = Math.max(spread.max, max);
}

function finite(value: unknown): number | undefined {
  return Number.isFinite(value) ? (value as number) : undefined;
}
