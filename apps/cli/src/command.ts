import { type Args, type Flag, kebab, type Operand, parseCommandLine } from "./flags.ts";
import type { Io } from "./io.ts";

/** A subcommand of `dsv3`, ready to run. */
export interface Command {
  /** The first line of its help: what it does, in one sentence. */
  summary: string;
  flags: Record<string, Flag>;
  operands: Record<string, Operand>;
  /** Command lines to copy, without the leading `dsv3`. */
  examples: readonly string[];
  /** It runs until it is stopped, so that to be stopped is its success (exit code 0). */
  endsWhenStopped?: boolean;
  /** Reads `argv` (what follows the command's name) and does the work. */
  run(argv: readonly string[], io: Io): Promise<void>;
}

/**
 * Declares a subcommand. Its `run` gets typed values: a flag without a default that is not required
 * may be undefined, a boolean is false unless given, a choice has the type of its choices.
 *
 * `run` prints results to `io.stdout`, everything else to `io.stderr`; it throws an Error whose
 * message says what was wrong and how to mend it, and returns early when `io.signal` is aborted.
 */
export function defineCommand<
  const F extends Record<string, Flag>,
  const O extends Record<string, Operand> = Record<never, Operand>,
>(definition: {
  summary: string;
  flags: F;
  operands?: O;
  examples: readonly string[];
  endsWhenStopped?: boolean;
  run(args: Args<F, O>, io: Io): Promise<void>;
}): Command {
  const { summary, flags, operands = {}, examples, endsWhenStopped = false, run } = definition;
  return {
    summary,
    flags,
    operands,
    examples,
    endsWhenStopped,
    run: async (argv, io) => run(parseCommandLine(argv, flags, operands) as Args<F, O>, io),
  };
}

/** The text of `dsv3 NAME --help`. */
export function commandHelp(name: string, command: Command): string {
  const operands = Object.entries(command.operands).map(([operand, { optional, many, help }]) => {
    const left = `${operand.toUpperCase()}${many ? "…" : ""}`;
    return { left, usage: optional ? `[${left}]` : left, help };
  });
  const flags = Object.entries(command.flags).map(([flag, spec]) => ({
    left: `--${kebab(flag)}${valueName(spec)}`,
    usage: "required" in spec && spec.required ? `--${kebab(flag)}${valueName(spec)}` : undefined,
    help: `${spec.help}${note(spec)}`,
  }));
  flags.push({ left: "--help", usage: undefined, help: "show this text" });
  const usage = [...operands, ...flags].map(({ usage }) => usage).filter(Boolean);
  const width = Math.max(...[...operands, ...flags].map(({ left }) => left.length));
  const list = (rows: { left: string; help: string }[]) =>
    rows.map(({ left, help }) => `  ${left.padEnd(width)}  ${help}`);
  return [
    command.summary,
    "",
    `Usage: dsv3 ${[name, ...usage].join(" ")} [flags]`,
    ...(operands.length > 0 ? ["", "Arguments:", ...list(operands)] : []),
    "",
    "Flags:",
    ...list(flags),
    ...(command.examples.length > 0 ? ["", "Examples:"] : []),
    ...command.examples.map((example) => `  dsv3 ${example}`),
    "",
  ].join("\n");
}

function valueName(flag: Flag): string {
  if (flag.type === "boolean") return "";
  return flag.type === "choice" ? ` ${flag.choices.join("|")}` : ` ${flag.value}`;
}

function note(flag: Flag): string {
  if (flag.type === "boolean") return "";
  if (flag.type === "list") return `${flag.required ? " (required)" : ""} (may be repeated)`;
  if (flag.default !== undefined) return ` (default: ${flag.default})`;
  return flag.required ? " (required)" : "";
}
