/** A name that can stand in a legend, and a number. */
export type Scalar = readonly [name: string, value: number];

/**
 * The numbers of a line of metrics.jsonl, in its order: those of a record inside it are named
 * `record/name`. What is no finite number is left out.
 */
export function scalarsOf(line: object): Scalar[] {
  return Object.entries(line).flatMap(([name, value]) =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? numbersOf(value).map(([inner, number]) => [`${name}/${inner}`, number] as const)
      : numbersOf({ [name]: value }),
  );
}

function numbersOf(record: object): Scalar[] {
  return Object.entries(record).filter((entry): entry is [string, number] =>
    Number.isFinite(entry[1]),
  );
}
