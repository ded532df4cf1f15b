/** Stop strings in a text that comes in pieces: what is shown can never be part of one. */

export class StopWatch {
  readonly #stops: readonly string[];
  #held = "";

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /**
   * Takes the next piece. `text` may be shown; what could still become a stop string is held back.
   * `stop` is the stop string that was completed, the leftmost one, the longer of two at one place:
   * the text before it has been given out, and the rest is dropped.
   */
  push(piece: string): { text: string; stop: string | null } {
    const seen = this.#held + piece;
    let at = -1;
    let stop: string | null = null;
    for (const s of this.#stops) {
      const found = seen.indexOf(s);
      if (found < 0) continue;
      if (stop === null || found < at || (found === at && s.length > stop.length)) {
        at = found;
        stop = s;
      }
    }
    if (stop !== null) {
      this.#held = "";
      return { text: seen.slice(0, at), stop };
    }
    const safe = this.#safe(seen);
    this.#held = seen.slice(safe);
    return { text: seen.slice(0, safe), stop: null };
  }

  /** What was held back, at the end of the text. */
  end(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  /** Characters before the first place from which a stop string might go on past the end. */
  #safe(seen: string): number {
    let safe = seen.length;
    for (const s of this.#stops) {
      for (let from = Math.max(0, seen.length - s.length + 1); from < safe; from++) {
        if (s.startsWith(seen.slice(from))) safe = from;
      }
    }
    return safe;
  }
}
