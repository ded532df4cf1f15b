/** A record of a dataset, whose fields are read with a look at their kind. */

/** A record as a file has it, and where it stands. */
export interface SourcedRecord {
  readonly value: unknown;
  readonly file: string;
  /** Line of a text file, record of a list or table; from 1. */
  readonly line: number;
}

/** A field that is not as its task needs it: names file, line and field, and says what is expected. */
export class FieldError extends Error {
  override name = "FieldError";
}

export class Document {
  readonly record: Readonly<Record<string, unknown>>;
  readonly #where: string;

  /** @throws FieldError for a record that is no object */
  constructor({ value, file, line }: SourcedRecord) {
    this.#where = `${file}:${line}`;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new FieldError(`${this.#where}: expected an object, found ${kind(value)}`);
    }
    this.record = value as Record<string, unknown>;
  }

  /** A text; `choices.text` is the field `text` of the field `choices`. */
  text(path: string): string {
    const value = this.#at(path);
    return typeof value === "string"
      ? value
      : this.fail(path, `expected a text, found ${kind(value)}`);
  }

  /** A text, or null where the record has null or nothing. */
  optionalText(path: string): string | null {
    return this.#at(path) == null ? null : this.text(path);
  }

  /** A list of texts, of one at least. */
  texts(path: string): string[] {
    const value = this.#at(path);
    const isList = Array.isArray(value) && value.every((one) => typeof one === "string");
    if (!isList) this.fail(path, `expected a list of texts, found ${kind(value)}`);
    return value.length > 0 ? value : this.fail(path, "the list is empty");
  }

  /** A whole number from 0 to `below` − 1, which tables keep as a bigint and some lists as a text. */
  index(path: string, below: number): number {
    const value = this.#at(path);
    const number =
      typeof value === "string" && /^\d+$/.test(value) ? Number(value) : this.#number(value);
    if (number !== undefined && number >= 0 && number < below) return number;
    return this.fail(path, `expected a whole number from 0 to ${below - 1}, found ${shown(value)}`);
  }

  /** Where a text stands in a list of what it may be. */
  oneOf(path: string, names: readonly string[]): number {
    const at = names.indexOf(this.text(path));
    if (at >= 0) return at;
    return this.fail(path, `expected one of ${names.join(", ")}, found ${shown(this.#at(path))}`);
  }

  /** @throws FieldError */
  fail(path: string, problem: string): never {
    throw new FieldError(`${this.#where}: ${path}: ${problem}`);
  }

  #number(value: unknown): number | undefined {
    const number = typeof value === "bigint" ? Number(value) : value;
    return typeof number === "number" && Number.isSafeInteger(number) ? number : undefined;
  }

  #at(path: string): unknown {
    let value: unknown = this.record;
    for (const name of path.split(".")) {
      const inside = typeof value === "object" && value !== null && Object.hasOwn(value, name);
      value = inside ? (value as Record<string, unknown>)[name] : undefined;
    }
    return value;
  }
}

function kind(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : `a ${typeof value}`;
}

function shown(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(value) : undefined;
  if (text !== undefined && text.length <= 40) return text;
  return typeof value === "number" || typeof value === "bigint" ? String(value) : kind(value);
}
