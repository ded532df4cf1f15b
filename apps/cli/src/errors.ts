/** What the exit codes of `dsv3` mean; the same table stands in the help text and the README. */
export const EXIT: { ok: 0; failed: 1; usage: 2; interrupted: 130 } = {
  ok: 0,
  /** The command was understood but could not be carried out. */
  failed: 1,
  /** The command line was wrong: unknown command or flag, missing or malformed value. */
  usage: 2,
  /** Stopped by Ctrl-C or SIGTERM, after saving what the command saves. */
  interrupted: 130,
};

/** The command line is wrong; the message says which part, and what is expected there. */
export class UsageError extends Error {
  override name = "UsageError";
}

/**
 * The text a person sees for an error: its message, and the messages of its causes where it
 * does not quote them. The stack is
 * added only when asked for, because it helps nobody but the authors.
 */
export function describeError(error: unknown, withStack: boolean): string {
  if (!(error instanceof Error)) return String(error);
  if (withStack) return inspectStack(error);
  const { message, cause } = error;
  if (cause === undefined) return message || error.name;
  const inner = describeError(cause, false);
  return message.includes(inner) ? message : `${message}: ${inner}`;
}

function inspectStack(error: Error): string {
  const stack = error.stack ?? error.message;
  return error.cause instanceof Error ? `${stack}\ncaused by ${inspectStack(error.cause)}` : stack;
}
