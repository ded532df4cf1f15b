/** Kinds of values that settings are made of, with messages that name the place and the value. */
import { z } from "zod";

const expected = (what: string) => ({
  error: ({ input }: { input?: unknown }) =>
    input === undefined
      ? `is missing: ${what}`
      : `should be ${what}, got ${typeof input === "number" ? input : JSON.stringify(input)}`,
});

/** A whole number of at least `min`. */
export function whole(min: number): z.ZodInt {
  const text = expected(`a whole number of ${min} or more`);
  return z.int(text).min(min, text);
}

const finite = expected("a finite number of 0 or more");
export const weight: z.ZodNumber = z.number(finite).min(0, finite);

const fraction = expected("a number from 0 to below 1");
export const share: z.ZodNumber = z.number(fraction).min(0, fraction).lt(1, fraction);

/** What is wrong with a value, each "place what": `ramp.from should be a whole number …, got 0`. */
export function problemsOf(schema: z.ZodType, value: unknown): string[] {
  const result = schema.safeParse(value);
  if (result.success) return [];
  return result.error.issues.map((issue) => {
    if (issue.code === "unrecognized_keys") {
      return `${placeOf([...issue.path, issue.keys[0] as string])} is unknown; remove it, or mend its name`;
    }
    return `${placeOf(issue.path)} ${issue.message}`;
  });
}

/** ["laterPhases", 0, "ramp"] → "laterPhases[0].ramp" */
function placeOf(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, key) =>
      typeof key === "number" ? `${text}[${key}]` : `${text}${text ? "." : ""}${String(key)}`,
    "",
  );
}
