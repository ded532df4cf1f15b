/** A name that can stand in a legend, and a number. */
export type Scalar = readonly [name: string, value: number];

/**
 * The numbers of a line of metrics.jsonl, in its order: those of a record inside it are named
 * `record/name`. What is no finite number is left out.
 */
export function scalarsOf(line: object): Scalar[] {
  const scalars: Scalar[] = [];
  for (const [name, value] of Object.entries(line)) {
    if (Number.isFinite(value)) scalars.push([name, value]);
    else if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      for (const [inner, number] of Object.entries(value)) {
        if (Number.isFinite(number)) scalars.push([`${name}/${inner}`, number as number]);
      }
    }
  }
  return scalars;
}
