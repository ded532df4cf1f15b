/** A state with its time, from which rates are measured. */
interface Sample {
  readonly time: number;
  readonly done: number;
  readonly tokens: number;
}

/** Rates are taken over this long a past, so that they follow a change but do not flicker. */
const WINDOW_MS = 10_000;

/** How fast a piece of work goes at present. */
export class Pace {
  /** Past states within the window, oldest first; rates are measured against the first. */
  readonly #history: Sample[];
  /** Of `done` and of tokens, a second; 0 while unknown. */
  rate = 0;
  tokenRate = 0;

  /** @param time in milliseconds, of the clock that `update` is told too */
  constructor(time: number) {
    this.#history = [{ time, done: 0, tokens: 0 }];
  }

  update(time: number, done: number, tokens: number): void {
    const first = this.#history[0] as Sample;
    const seconds = (time - first.time) / 1000;
    this.rate = seconds > 0 ? (done - first.done) / seconds : 0;
    this.tokenRate = seconds > 0 ? (tokens - first.tokens) / seconds : 0;
    this.#history.push({ time, done, tokens });
    while (this.#history.length > 2 && time - (this.#history[1]?.time ?? time) >= WINDOW_MS) {
      this.#history.shift();
    }
  }

  /** Seconds for what is left to do, or NaN. */
  secondsFor(left: number): number {
    return this.rate > 0 ? Math.max(0, left) / this.rate : Number.NaN;
  }
}
