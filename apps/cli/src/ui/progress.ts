import type { Sink } from "../io.ts";
import { formatCount, formatDuration, truncate } from "./format.ts";

/** What is known at one moment of a long piece of work. */
export interface ProgressState {
  /** How much is done, in the units of `total` (steps, seconds, bytes …). */
  done: number;
  /** The latest loss, if there is one. */
  loss?: number;
  /** Tokens worked through since the beginning; their rate is shown. */
  tokens?: number;
}

/** A state with its time, from which rates are measured. */
interface Sample {
  time: number;
  done: number;
  tokens: number;
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
/** Rates are taken over this long a past, so that they follow a change but do not flicker. */
const WINDOW_MS = 10_000;
const BAR_CELLS = 24;

/**
 * Shows how far a long piece of work has come: one line that redraws itself in a terminal, a plain
 * line every few seconds anywhere else. Costs nothing between redraws; needs no timer.
 */
export class Progress {
  readonly #out: Sink;
  readonly #options: Required<ProgressOptions>;
  readonly #start: number;
  /** Past states within the window, oldest first; rates are measured against the first. */
  readonly #history: Sample[];
  #state: ProgressState = { done: 0 };
  #lastDrawn = -Infinity;
  #lineIsOpen = false;

  constructor(out: Sink, options: ProgressOptions) {
    this.#out = out;
    this.#options = { now: () => performance.now(), ...options };
    this.#start = this.#options.now();
    this.#history = [{ time: this.#start, done: 0, tokens: 0 }];
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
    const first = this.#history[0] as Sample;
    const seconds = (time - first.time) / 1000;
    const rate = seconds > 0 ? (done - first.done) / seconds : 0;
    const tokenRate = seconds > 0 ? ((tokens ?? 0) - first.tokens) / seconds : 0;
    this.#history.push({ time, done, tokens: tokens ?? 0 });
    while (this.#history.length > 2 && time - (this.#history[1]?.time ?? time) >= WINDOW_MS) {
      this.#history.shift();
    }
    const left = rate > 0 ? Math.max(0, this.#options.total - done) / rate : Number.NaN;
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
    const share = total > 0 ? Math.min(1, Math.max(0, done / total)) : 1;
    const full = Math.round(share * BAR_CELLS);
    const bar = this.#out.isTTY ? ` ${"█".repeat(full)}${"░".repeat(BAR_CELLS - full)}` : "";
    const percent = `${String(Math.floor(share * 100)).padStart(3)}%`;
    const { loss } = this.#state;
    return [`${label}${bar} ${percent}`, loss === undefined ? "" : `loss ${loss.toFixed(3)}`];
  }

  #print(parts: readonly string[], end: string): void {
    const text = parts.filter((part) => part !== "").join("  ");
    if (!this.#out.isTTY) this.#out.write(`${text}\n`);
    // One column stays free: some terminals wrap when the last one is written.
    else this.#out.write(`\r${truncate(text, (this.#out.columns || 80) - 1)}\u001b[K${end}`);
  }
}
