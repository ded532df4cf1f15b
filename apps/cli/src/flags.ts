import { parseArgs } from "node:util";
import { UsageError } from "./errors.ts";

interface FlagBase {
  /** One line for `--help`, without a full stop. */
  help: string;
}

/** One flag of a command. Written in camelCase in code, `--kebab-case` on the command line. */
export type Flag =
  | (FlagBase & { type: "boolean" })
  | (FlagBase & { type: "string"; value: string; default?: string; required?: true })
  /** May be given many times; without any, the list is empty. */
  | (FlagBase & { type: "list"; value: string; required?: true })
  | (FlagBase & {
      type: "number" | "integer";
      value: string;
      default?: number;
      required?: true;
      min?: number;
      max?: number;
    })
  | (FlagBase & { type: "choice"; choices: readonly string[]; default?: string; required?: true });

/** One word after the command's name, or all that are left. Required ones come before optional ones. */
export interface Operand {
  help: string;
  optional?: true;
  /** Takes one word or more: the last operand only. */
  many?: true;
}

type Value<F extends Flag> = F extends { type: "boolean" }
  ? boolean
  : F extends { type: "list" }
    ? readonly string[]
    : F extends { type: "number" | "integer" }
      ? number
      : F extends { type: "choice"; choices: readonly (infer C)[] }
        ? C
        : string;

type Sure<F extends Flag> = F extends { type: "boolean" | "list" } | { required: true }
  ? true
  : F extends { default: string | number }
    ? true
    : false;

/** The values a command receives for its flags and operands. */
export type Args<F extends Record<string, Flag>, O extends Record<string, Operand>> = {
  [K in keyof F]: Sure<F[K]> extends true ? Value<F[K]> : Value<F[K]> | undefined;
} & {
  [K in keyof O]: O[K] extends { many: true }
    ? string[]
    : O[K] extends { optional: true }
      ? string | undefined
      : string;
};

/** `maxSteps` -> `max-steps` */
export function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** What a flag was given as: its words, or true for a boolean. */
export type Given = string | true | readonly string[];

type Values = Record<string, string | number | boolean | readonly string[] | undefined>;

/**
 * Reads `argv` against the flags and operands that a command declares.
 * @throws {UsageError} for anything not declared, missing, or not of the declared kind.
 */
export function parseCommandLine(
  argv: readonly string[],
  flags: Record<string, Flag>,
  operands: Record<string, Operand>,
): Values {
  const { values, positionals } = splitWords(argv, flags);
  const args = readFlags(values, flags);
  for (const [name, operand] of Object.entries(operands)) {
    const word = positionals.shift();
    if (word === undefined && !operand.optional) {
      throw new UsageError(`${name.toUpperCase()} is missing: ${operand.help}`);
    }
    args[name] = operand.many && word !== undefined ? [word, ...positionals.splice(0)] : word;
  }
  if (positionals.length > 0) throw new UsageError(`unexpected argument "${positionals[0]}"`);
  return args;
}

/**
 * The values of all flags, of which some were given, by their names on the command line.
 * `label` is how a message calls a flag.
 * @throws {UsageError} for a flag that is missing, or not of the declared kind
 */
export function readFlags(
  given: ReadonlyMap<string, Given>,
  flags: Record<string, Flag>,
  label: (name: string) => string = (name) => `--${name}`,
): Values {
  const values = Object.entries(flags).map(([name, flag]) => {
    const value = given.get(kebab(name));
    const missing = "required" in flag && flag.required && value === undefined;
    if (missing) throw new UsageError(`--${kebab(name)} is missing: ${flag.help}`);
    if (flag.type === "boolean") return [name, value === true];
    if (flag.type === "list") return [name, value ?? []];
    return [name, readValue(label(kebab(name)), flag, value as string | undefined)];
  });
  return Object.fromEntries(values);
}

/** Sorts the words into flags with their values and the rest, and refuses what is not declared. */
export function splitWords(
  argv: readonly string[],
  flags: Record<string, Flag>,
): { values: Map<string, Given>; positionals: string[] } {
  const options = Object.fromEntries(
    Object.entries(flags).map(([name, { type }]) => [
      kebab(name),
      { kind: type, type: type === "boolean" ? ("boolean" as const) : ("string" as const) },
    ]),
  );
  // Not strict: its messages speak of the library. Its tokens hold all that the checks need.
  const { tokens, positionals } = parseArgs({
    args: [...argv],
    options,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const values = new Map<string, Given>();
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const { name, rawName, value, inlineValue } = token;
    const option = rawName.startsWith("--") && Object.hasOwn(options, name) && options[name];
    if (!option) {
      throw new UsageError(`unknown flag ${rawName}${suggestion(name, Object.keys(options))}`);
    }
    const before = values.get(name);
    if (before !== undefined && option.kind !== "list") {
      throw new UsageError(`--${name} is given twice`);
    }
    if (option.type === "boolean") {
      if (value !== undefined) {
        throw new UsageError(`--${name} takes no value, but got "${value}"`);
      }
    } else if (value === undefined || value === "") {
      throw new UsageError(`--${name} needs a value`);
    } else if (!inlineValue && value.startsWith("--")) {
      // `--out --json` is a forgotten value, not a file named "--json".
      throw new UsageError(
        `--${name} needs a value, but ${value} follows (if that is the value, write --${name}=${value})`,
      );
    }
    const list = option.kind === "list" && [...((before as string[] | undefined) ?? []), value!];
    values.set(name, list || (value ?? true));
  }
  return { values, positionals };
}

function readValue(
  label: string,
  flag: Exclude<Flag, { type: "boolean" | "list" }>,
  given: string | undefined,
): string | number | undefined {
  if (given === undefined) return flag.default;
  if (flag.type === "string") return given;
  if (flag.type === "choice") {
    if (flag.choices.includes(given)) return given;
    throw new UsageError(`${label} is "${given}", but must be one of ${flag.choices.join(", ")}`);
  }
  const number = Number(given);
  const { min = -Infinity, max = Infinity } = flag;
  const right = flag.type === "integer" ? Number.isSafeInteger(number) : Number.isFinite(number);
  if (!right || given.trim() === "" || number < min || number > max) {
    const kind = flag.type === "integer" ? "a whole number" : "a number";
    const bounds = [
      min > -Infinity ? `at least ${min}` : "",
      max < Infinity ? `at most ${max}` : "",
    ].filter(Boolean);
    throw new UsageError(
      `${label} is "${given}", but must be ${[kind, bounds.join(" and ")].filter(Boolean).join(", ")}`,
    );
  }
  return number;
}

/** `; did you mean --steps?` if one of the known names is close to what was typed. */
export function suggestion(typed: string, known: readonly string[], prefix = "--"): string {
  const limit = typed.length < 4 ? 1 : 2;
  const near = known
    .map((name) => ({ name, distance: editDistance(typed, name) }))
    .filter(({ distance }) => distance <= limit)
    .sort((a, b) => a.distance - b.distance)[0];
  return near ? `; did you mean ${prefix}${near.name}?` : "";
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitute, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
