/** Whether two schemas can be told apart: `oneOf` wants values that fit one of its schemas alone. */

type Schema = Readonly<Record<string, unknown>>;

/** True only if no value fits both, as far as types, constants and required properties show. */
export function disjoint(a: unknown, b: unknown): boolean {
  if (!isObject(a) || !isObject(b)) return false;
  const [valuesA, valuesB] = [values(a), values(b)];
  if (valuesA && valuesB) return !valuesA.some((value) => valuesB.includes(value));
  const [typesA, typesB] = [types(a), types(b)];
  if (typesA && typesB && !typesA.some((type) => typesB.includes(type))) return true;
  const isOpen = (types: readonly string[] | null) => types?.join() !== "object";
  if (isOpen(typesA) || isOpen(typesB)) return false;
  // Objects: one property that both must have, and that cannot be the same in both.
  const [ownA, ownB] = [a.properties ?? {}, b.properties ?? {}] as [Schema, Schema];
  const required = (s: Schema, name: string) =>
    Array.isArray(s.required) && s.required.includes(name);
  return Object.keys(ownA).some(
    (name) =>
      Object.hasOwn(ownB, name) &&
      required(a, name) &&
      required(b, name) &&
      disjoint(ownA[name], ownB[name]),
  );
}

/** The values that a schema lists, as JSON; null: it lists none. */
function values(s: Schema): readonly string[] | null {
  if ("const" in s) return [JSON.stringify(s.const)];
  return Array.isArray(s.enum) ? s.enum.map((value) => JSON.stringify(value)) : null;
}

/** The types of a schema's values, whole numbers counted among numbers; null: not told. */
function types(s: Schema): readonly string[] | null {
  const listed = values(s)?.map((value) => typeOf(JSON.parse(value)));
  if (listed) return listed;
  if (s.type === undefined) return null;
  const all: unknown[] = Array.isArray(s.type) ? s.type : [s.type];
  return all.map((type) => (type === "integer" ? "number" : String(type)));
}

function typeOf(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
}

function isObject(value: unknown): value is Schema {
  return typeof value === "object" && value !== null;
}
