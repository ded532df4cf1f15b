/** One Ctrl-C can arrive twice, from the terminal and passed on by npm: repeats this soon are one. */
const SAME_SIGNAL_MS = 500;

/** The part of `process` that signals come from. */
export interface SignalSource {
  on(signal: "SIGINT" | "SIGTERM", listener: () => void): unknown;
}

/**
 * An AbortSignal for the commands: the first Ctrl-C (or SIGTERM) aborts it, so that a command can
 * save and return; a later one calls `stopNow`.
 *
 * @param onFirst called once, to tell the person that the program is stopping
 * @param now a clock in milliseconds
 */
export function interruptSignal(
  source: SignalSource,
  onFirst: () => void,
  stopNow: () => void,
  now: () => number = () => performance.now(),
): AbortSignal {
  const controller = new AbortController();
  let first = 0;
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    source.on(name, () => {
      if (!controller.signal.aborted) {
        first = now();
        onFirst();
        controller.abort(new Error(`stopped by ${name}`));
      } else if (now() - first > SAME_SIGNAL_MS) {
        stopNow();
      }
    });
  }
  return controller.signal;
}
