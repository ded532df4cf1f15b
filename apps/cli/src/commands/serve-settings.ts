/**
 * The settings of `dsv3 serve`. Each is a flag, and may also come from the environment or from a file:
 * `--max-running 4`, `DSV3_SERVE_MAX_RUNNING=4`, or `{ "max-running": 4 }` in the file of `--config`.
 * The command line wins over the environment, the environment over the file, the file over defaults.
 */
import { readFile } from "node:fs/promises";
import { UsageError } from "../errors.ts";
import { type Flag, type Given, kebab, readFlags, splitWords, suggestion } from "../flags.ts";
import type { Io } from "../io.ts";

const PREFIX = "DSV3_SERVE_";

type Flags = Record<string, Flag>;

/** What is given somewhere: values by the names of flags, and where each is from. */
interface Layer {
  readonly values: Map<string, Given>;
  label(name: string): string;
}

/**
 * The values of all flags, wherever they are from.
 * @throws {UsageError} naming the flag, variable or key that is unknown or wrong
 */
export async function readSettings(
  argv: readonly string[],
  flags: Flags,
  env: Io["env"],
): Promise<ReturnType<typeof readFlags>> {
  const { values, positionals } = splitWords(argv, flags);
  if (positionals.length > 0) throw new UsageError(`unexpected argument "${positionals[0]}"`);
  const words: Layer = { values, label: (name) => `--${name}` };
  const variables = fromEnvironment(env, flags);
  const file = values.get("config") ?? variables.values.get("config");
  const layers = [words, variables, ...(file ? [await fromFile(file as string, flags)] : [])];
  const given = new Map(layers.toReversed().flatMap(({ values }) => [...values]));
  const label = (name: string) =>
    (layers.find(({ values }) => values.has(name)) ?? words).label(name);
  return readFlags(given, flags, label);
}

/** The settings as a file of `--config` would have them. Passwords in URLs are hidden. */
export function printedSettings(settings: Readonly<Record<string, unknown>>): object {
  const hidden = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(hidden);
    return typeof value === "string"
      ? value.replace(/(\/\/[^/@:]*:)[^/@]*@/, "$1(hidden)@")
      : value;
  };
  const entries = Object.entries(settings).filter(([name]) => !OF_THE_COMMAND.has(kebab(name)));
  return Object.fromEntries(entries.map(([name, value]) => [kebab(name), hidden(value)]));
}

/** They say what to do, not how to serve. */
const OF_THE_COMMAND = new Set(["config", "print-config"]);

function fromEnvironment(env: Io["env"], flags: Flags): Layer {
  const variable = (name: string) => PREFIX + name.replaceAll("-", "_").toUpperCase();
  const names = new Map(Object.entries(flags).map(([key, flag]) => [variable(kebab(key)), flag]));
  for (const name of Object.keys(env)) {
    if (!name.startsWith(PREFIX) || names.has(name)) continue;
    throw new UsageError(`${name} is unknown${suggestion(name, [...names.keys()], "")}`);
  }
  const values = new Map<string, Given>();
  for (const [key, flag] of Object.entries(flags)) {
    const name = variable(kebab(key));
    const text = env[name];
    if (text === undefined || text === "") continue;
    if (flag.type === "list") values.set(kebab(key), text.split(","));
    else if (flag.type !== "boolean") values.set(kebab(key), text);
    else if (text === "1" || text === "true") values.set(kebab(key), true);
    else if (text !== "0" && text !== "false") {
      throw new UsageError(`${name} is "${text}", but must be 1 or 0`);
    }
  }
  return { values, label: variable };
}

async function fromFile(file: string, flags: Flags): Promise<Layer> {
  let settings: unknown;
  try {
    settings = JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new UsageError(`cannot read ${file} as JSON`, { cause });
  }
  if (typeof settings !== "object" || settings === null || Array.isArray(settings)) {
    throw new UsageError(`${file} must hold an object: { "port": 8000, … }`);
  }
  const known = new Map(Object.entries(flags).map(([key, flag]) => [kebab(key), flag]));
  for (const name of OF_THE_COMMAND) known.delete(name);
  const values = new Map<string, Given>();
  for (const [name, value] of Object.entries(settings)) {
    const flag = known.get(name);
    if (flag === undefined) {
      throw new UsageError(
        `"${name}" in ${file} is unknown${suggestion(name, [...known.keys()], "")}`,
      );
    }
    if (value === null) continue;
    if (!fits(flag, value)) {
      const got = JSON.stringify(value);
      throw new UsageError(`"${name}" in ${file} is ${got}, but must be ${KINDS[flag.type]}`);
    }
    if (flag.type === "list") values.set(name, value as string[]);
    else if (flag.type !== "boolean") values.set(name, String(value));
    else if (value === true) values.set(name, true);
  }
  return { values, label: (name) => `"${name}" in ${file}` };
}

const KINDS: Readonly<Record<Flag["type"], string>> = {
  boolean: "true or false",
  string: "a text",
  choice: "a text",
  list: "a list of texts",
  number: "a number",
  integer: "a whole number",
};

function fits({ type }: Flag, value: unknown): boolean {
  switch (type) {
    case "boolean":
      return typeof value === "boolean";
    case "string":
    case "choice":
      return typeof value === "string" && value !== "";
    case "list":
      return Array.isArray(value) && value.every((one) => typeof one === "string" && one !== "");
    case "number":
    case "integer":
      return typeof value === "number";
  }
}
