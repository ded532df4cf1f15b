import type { Sink } from "../io.ts";
import { formatCount, formatDuration, truncate } from "./format.ts";
import { Pace } from "./pace.ts";

/** What is known at one moment of a long piece of work. */
export interface ProgressState {
  /** How much is done, in the units of `total` (steps, seconds, bytes …). */
  done: number;
  /** What it is all about, such as the loss, and how much that is. */
  metric?: readonly [name: string, value: number];
  /** Tokens worked through since the beginning; their rate is shown. */
  tokens?: number;
}

export interface ProgressOptions {
  /** What is going on, in a word or two: "training". */
  label: string;
  /** The value of `done` at which the work is complete. */
  total: number;
  /** A clock in milliseconds. */
  now?: () => number;
}

const REDRAW_MS = 100;
const LINE_MS = 5000;
const BAR_CELLS = 24;

/**
 * Shows how far a long piece of work has come: one line that redraws itself in a terminal, a plain
 * line every few seconds anywhere else. Costs nothing between redraws; needs no timer.
 */
export class Progress {
  readonly #out: Sink;
  readonly #options: Required<ProgressOptions>;
  readonly #start: number;
  readonly #pace: Pace;
  #state: ProgressState = { done: 0 };
  #lastDrawn = -Infinity;
  #lineIsOpen = false;

  constructor(out: Sink, options: ProgressOptions) {
    this.#out = out;
    this.#options = { now: () => performance.now(), ...options };
    this.#start = this.#options.now();
    this.#pace = new Pace(this.#start);
  }

  /** Tells the present state; call it as often as you like. */
  update(state: ProgressState): void {
    this.#state = state;
    const time = this.#options.now();
    if (time - this.#lastDrawn < (this.#out.isTTY ? REDRAW_MS : LINE_MS)) return;
    this.#lastDrawn = time;
    this.#draw(time);
  }

  /** Prints a line of its own above the bar. */
  log(line: string): void {
    if (!this.#lineIsOpen) {
      this.#out.write(`${line}\n`);
      return;
    }
    this.#out.write(`\r\u001b[K${line}\n`);
    this.#draw(this.#options.now());
  }

  /** Shows the last state, how long it all took, and ends the line. */
  finish(): void {
    const time = this.#options.now();
    const elapsed = Math.max(time - this.#start, 1) / 1000;
    const { done, tokens } = this.#state;
    const parts = [
      ...this.#head(done),
      tokens === undefined ? "" : `${formatCount(tokens / elapsed)} tokens/s`,
      formatDuration(elapsed),
    ];
    this.#print(parts, "\n");
    this.#lineIsOpen = false;
  }

  #draw(time: number): void {
    const { done, tokens } = this.#state;
    this.#pace.update(time, done, tokens ?? 0);
    const { tokenRate } = this.#pace;
    const left = this.#pace.secondsFor(this.#options.total - done);
    const parts = [
      ...this.#head(done),
      tokens === undefined || tokenRate <= 0 ? "" : `${formatCount(tokenRate)} tokens/s`,
      Number.isNaN(left) ? "" : `${formatDuration(left)} left`,
    ];
    this.#print(parts, this.#out.isTTY ? "" : "\n");
    this.#lineIsOpen = this.#out.isTTY === true;
  }

  /** The parts that a running and a finished line share. */
  #head(done: number): string[] {
    const { label, total } = this.#options;
    const bar = this.#out.isTTY ? ` ${progressBar(done, total)}` : "";
    const { metric } = this.#state;
    return [
      `${label}${bar} ${percent(done, total)}`,
      metric === undefined ? "" : `${metric[0]} ${metric[1].toFixed(3)}`,
    ];
  }

  #print(parts: readonly string[], end: string): void {
    const text = parts.filter((part) => part !== "").join("  ");
    if (!this.#out.isTTY) this.#out.write(`${text}\n`);
    // One column stays free: some terminals wrap when the last one is written.
    else this.#out.write(`\r${truncate(text, (this.#out.columns || 80) - 1)}\u001b[K${end}`);
  }
}

/** What is done of it all, drawn. */
export function progressBar(done: number, total: number, cells: number = BAR_CELLS): string {
  const full = Math.round(share(done, total) * cells);
  return `${"█".repeat(full)}${"░".repeat(cells - full)}`;
}

/** What is done of it all, in four characters. */
export function percent(done: number, total: number): string {
  return `${String(Math.floor(share(done, total) * 100)).padStart(3)}%`;
}

function share(done: number, total: number): number {
  return total > 0 ? Math.min(1, Math.max(0, done / total)) : 1;
}
