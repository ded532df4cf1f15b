import type { Sink } from "../io.ts";

/**
 * Prints the one document of a command's `--json`: indented, with a final newline. Numbers that
 * JSON does not have (NaN, Infinity) are written as the strings "NaN" and "Infinity" rather than
 * silently as null; a bigint as a number where that is exact, else as a string of digits.
 */
export function printJson(out: Sink, value: unknown): void {
  out.write(`${JSON.stringify(value, replacer, 2)}\n`);
}

function replacer(_key: string, value: unknown): unknown {
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  if (typeof value === "bigint") {
    return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  }
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    return Array.from(value as unknown as Iterable<number | bigint>);
  }
  return value;
}
