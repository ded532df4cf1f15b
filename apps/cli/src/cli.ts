import { commandHelp } from "./command.ts";
import type { CommandEntry } from "./commands.ts";
import { describeError, EXIT, UsageError } from "./errors.ts";
import { suggestion } from "./flags.ts";
import type { Io } from "./io.ts";

/**
 * Runs one command line of `dsv3` and returns its exit code (see EXIT). Never throws: an error
 * becomes one message on stderr.
 */
export async function runCli(
  argv: readonly string[],
  io: Io,
  commands: Record<string, CommandEntry>,
  version: string,
): Promise<number> {
  const [name, rest] = splitName(argv, commands);
  try {
    if (name === undefined) {
      io.stderr.write(mainHelp(commands));
      return EXIT.usage;
    }
    if (name === "--version") {
      io.stdout.write(`${version}\n`);
    } else if (name === "--help" || name === "-h" || (name === "help" && rest.length === 0)) {
      io.stdout.write(mainHelp(commands));
    } else if (name === "help") {
      io.stdout.write(await helpOf(splitName(rest, commands)[0] as string, commands));
    } else if (asksForHelp(rest)) {
      io.stdout.write(await helpOf(name, commands));
    } else {
      const command = await find(name, commands).load();
      await command.run(rest, io);
      if (command.endsWhenStopped) return EXIT.ok;
    }
    return io.signal.aborted ? EXIT.interrupted : EXIT.ok;
  } catch (error) {
    // What a command throws because it was stopped is no failure of its own.
    if (io.signal.aborted) return EXIT.interrupted;
    const isUsage = error instanceof UsageError;
    const known =
      name !== undefined && (Object.hasOwn(commands, name) || members(name, commands)[0]);
    const program = known ? `dsv3 ${name}` : "dsv3";
    const message = describeError(error, !isUsage && io.env.DSV3_DEBUG === "1");
    const hint = isUsage ? `\nRun \`${program} --help\` to see what it takes.` : "";
    io.stderr.write(`${program}: ${message}${hint}\n`);
    return isUsage ? EXIT.usage : EXIT.failed;
  }
}

/** The command's name, which is one word or two (`tokenizer encode`), and what follows it. */
function splitName(
  argv: readonly string[],
  commands: Record<string, CommandEntry>,
): [name: string | undefined, rest: readonly string[]] {
  const [first, second, ...rest] = argv;
  const isGroup = members(first, commands).length > 0;
  if (isGroup && second !== undefined && !second.startsWith("-")) {
    return [`${first} ${second}`, rest];
  }
  return [first, argv.slice(1)];
}

/** The commands of two words that begin with this one. */
function members(group: string | undefined, commands: Record<string, CommandEntry>): string[] {
  return Object.keys(commands).filter((name) => name.startsWith(`${group} `));
}

function asksForHelp(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  return (end < 0 ? argv : argv.slice(0, end)).some((arg) => arg === "--help" || arg === "-h");
}

function find(name: string, commands: Record<string, CommandEntry>): CommandEntry {
  const entry = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (entry) return entry;
  if (name.startsWith("-")) throw new UsageError(`unknown flag ${name} before a command`);
  const group = members(name, commands);
  if (group.length > 0) throw new UsageError(`what to do is missing: ${group.join(", ")}`);
  throw new UsageError(`unknown command "${name}"${suggestion(name, Object.keys(commands), "")}`);
}

async function helpOf(name: string, commands: Record<string, CommandEntry>): Promise<string> {
  const group = members(name, commands);
  if (group.length > 0) return mainHelp(pick(commands, group));
  return commandHelp(name, await find(name, commands).load());
}

function pick(commands: Record<string, CommandEntry>, names: string[]): typeof commands {
  return Object.fromEntries(Object.entries(commands).filter(([name]) => names.includes(name)));
}

function mainHelp(commands: Record<string, CommandEntry>): string {
  const entries = Object.entries(commands);
  const width = Math.max(0, ...entries.map(([name]) => name.length));
  return [
    "DeepSeek-V3 in TypeScript: train, run and inspect models on this machine.",
    "",
    "Usage: dsv3 COMMAND [flags]",
    "",
    "Commands:",
    ...entries.map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`),
    "",
    "  dsv3 COMMAND --help  what a command takes",
    "  dsv3 --version       the version of dsv3",
    "",
    "Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted.",
    "Environment: DSV3_DEBUG=1 prints where an error comes from; NO_COLOR=1 prints without colours.",
    "",
  ].join("\n");
}
