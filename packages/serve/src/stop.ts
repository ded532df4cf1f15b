/** Stop strings in a text that comes in pieces: what is shown can never be part of one. */

/** The leftmost of some texts in another, the longer of two at one place; null if there is none. */
export function findFirst(
  seen: string,
  stops: readonly string[],
): { readonly at: number; readonly stop: string } | null {
  let first: { at: number; stop: string } | null = null;
  for (const stop of stops) {
    const at = seen.indexOf(stop);
    if (at < 0) continue;
    const better =
      first === null || at < first.at || (at === first.at && stop.length > first.stop.length);
    if (better) first = { at, stop };
  }
  return first;
}

/** Characters before the first place from which one of some texts might go on past the end. */
export function safeLength(seen: string, stops: readonly string[]): number {
  let safe = seen.length;
  for (const stop of stops) {
    for (let from = Math.max(0, seen.length - stop.length + 1); from < safe; from++) {
      if (stop.startsWith(seen.slice(from))) safe = from;
    }
  }
  return safe;
}

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
    const found = findFirst(seen, this.#stops);
    if (found !== null) {
      this.#held = "";
      return { text: seen.slice(0, found.at), stop: found.stop };
    }
    const safe = safeLength(seen, this.#stops);
    this.#held = seen.slice(safe);
    return { text: seen.slice(0, safe), stop: null };
  }

  /** What was held back, at the end of the text. */
  end(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }
}
