import { type ExpertLoads, type RunEvents, type RunMetrics, totalSteps, train } from "@dsv3/train";
import type { Io, Sink } from "./io.ts";
import { writeReport } from "./report/write-report.ts";
import { noteMachine } from "./runs/machine.ts";
import { mainMetric, Series } from "./runs/series.ts";
import { displayWidth } from "./ui/format.ts";
import { Pace } from "./ui/pace.ts";
import { LEAST, panelLines } from "./ui/panel.ts";
import { Progress } from "./ui/progress.ts";
import { styler } from "./ui/style.ts";

/** A line of metrics.jsonl, of whatever kind of training. */
interface Line {
  readonly step: number;
  readonly tokens?: number;
}

const REDRAW_MS = 200;
/** Steps over which the loss of a plain line is smoothed: that of a single batch jumps about. */
const SMOOTHED_STEPS = 20;
/** More than a terminal has dots. */
const POINTS = 400;

/**
 * How a run goes: a panel with the curve of its main metric, rates and the load of the experts, drawn
 * in place on stderr; a bar in a small terminal, and plain lines where nobody watches.
 */
export class RunView {
  readonly #out: Sink;
  readonly #style: ReturnType<typeof styler>;
  readonly #options: { readonly label: string; readonly total: number; now(): number };
  readonly #progress: Progress;
  readonly #pace: Pace;
  readonly #series = new Series(POINTS);
  readonly #dumb: boolean;
  #loads: ExpertLoads = [];
  #smoothed: readonly [name: string, value: number] | undefined;
  #lastDrawn = -Infinity;
  /** What stands above the cursor, without colours. */
  #frame: readonly number[] = [];

  constructor(
    io: Pick<Io, "stderr" | "env" | "signal">,
    options: { label: string; total: number; now?: () => number },
  ) {
    this.#out = io.stderr;
    this.#dumb = io.env.TERM === "dumb";
    this.#style = styler(io.stderr, io.env);
    this.#options = { now: () => performance.now(), ...options };
    const plain: Sink = { write: (text) => io.stderr.write(text) };
    this.#progress = new Progress(this.#dumb ? plain : io.stderr, this.#options);
    this.#pace = new Pace(this.#options.now());
    this.#out.on?.("resize", this.#resized);
    // The program says that it stops, on a line of its own: what is drawn from then on goes below.
    io.signal.addEventListener("abort", this.#leave, { once: true });
  }

  /** Takes what a step measured; draws a few times a second at most. */
  step(line: Line, loads: ExpertLoads = []): void {
    this.#series.add(line);
    if (loads.length > 0) this.#loads = loads;
    this.#smooth();
    const time = this.#options.now();
    if (!this.#hasRoom()) {
      const { step, tokens } = line;
      const metric = this.#smoothed ? { metric: this.#smoothed } : {};
      this.#progress.update({ done: step, ...metric, ...(tokens === undefined ? {} : { tokens }) });
      return;
    }
    if (time - this.#lastDrawn < REDRAW_MS) return;
    this.#lastDrawn = time;
    this.#pace.update(time, line.step, line.tokens ?? 0);
    this.#draw();
  }

  /** Prints a line of its own, above the panel. */
  log(text: string): void {
    if (!this.#hasRoom()) {
      this.#progress.log(text);
      return;
    }
    this.#out.write(`${this.#top()}\u001b[J${text}\n`);
    this.#frame = [];
    this.#draw();
  }

  /** Leaves the last state where it is, and ends the line. */
  finish(): void {
    this.#out.off?.("resize", this.#resized);
    if (!this.#hasRoom()) {
      this.#progress.finish();
      return;
    }
    this.#draw();
    if (this.#frame.length > 0) this.#out.write("\n");
    this.#frame = [];
  }

  readonly #resized = () => {
    if (this.#frame.length > 0 && this.#hasRoom()) this.#draw();
  };

  readonly #leave = () => {
    this.#frame = [];
  };

  #hasRoom(): boolean {
    const { isTTY, columns = 80, rows = 24 } = this.#out;
    return isTTY === true && !this.#dumb && columns >= LEAST.columns && rows >= LEAST.rows;
  }

  #smooth(): void {
    const name = mainMetric(this.#series.names);
    const value =
      name === undefined ? undefined : this.#series.points.at(-1)?.values.get(name)?.mean;
    if (name === undefined || value === undefined) return;
    const before = this.#smoothed?.[0] === name ? this.#smoothed[1] : value;
    this.#smoothed = [name, before + (value - before) / SMOOTHED_STEPS];
  }

  #draw(): void {
    const { label, total } = this.#options;
    const done = this.#series.points.at(-1)?.step;
    if (done === undefined) return;
    const { columns = 80, rows = 24 } = this.#out;
    const state = {
      label,
      done,
      total,
      series: this.#series,
      loads: this.#loads,
      pace: this.#pace,
    };
    const lines = panelLines(state, { columns, rows }, this.#style);
    this.#out.write(`${this.#top()}${lines.map((line) => `${line}\u001b[K`).join("\n")}\u001b[J`);
    this.#frame = lines.map(displayWidth);
  }

  /** Back to where the panel begins, whose lines a terminal that was made narrower has wrapped. */
  #top(): string {
    const { columns = 80 } = this.#out;
    const rows = this.#frame.reduce((sum, w) => sum + Math.max(1, Math.ceil(w / columns)), 0);
    return rows > 1 ? `\r\u001b[${rows - 1}A` : "\r";
  }
}

interface Measured {
  readonly tokensPerSecond: number;
  /** The last one. */
  readonly evaluation?: Readonly<Record<string, number>>;
}

/** `train` of @dsv3/train, to be watched on stderr, stopped by Ctrl-C; a report stands in the run's folder at the end. */
export async function trainWithProgress(
  io: Io,
  label: string,
  ...[dir, config, settings, data, options]: Parameters<typeof train>
): Promise<Awaited<ReturnType<typeof train>> & Measured> {
  const view = new RunView(io, { label, total: totalSteps(settings) });
  let first: RunMetrics | undefined;
  let last: RunMetrics | undefined;
  let evaluation: RunMetrics["evaluation"];
  const events: RunEvents = {
    onWarning: (message) => view.log(`warning: ${message}`),
    onStep: (m, loads) => {
      first ??= m; // This one compiled the program: rates are taken after it.
      last = m;
      evaluation = m.evaluation ?? evaluation;
      view.step(m, loads);
    },
    signal: io.signal,
  };
  const result = await train(dir, config, settings, data, { ...options, ...events }).finally(() =>
    view.finish(),
  );
  if (last) {
    await noteMachine(dir);
    const { html } = await writeReport(dir);
    io.stderr.write(`report: ${html}\n`);
  }
  const rate = first && last ? (last.tokens - first.tokens) / (last.seconds - first.seconds) : 0;
  const tokensPerSecond = Number.isFinite(rate) ? rate : 0;
  return { ...result, tokensPerSecond, ...(evaluation ? { evaluation } : {}) };
}
