/** Schemas as tables and words: what the page shows of what is sent and answered. */
import type { JsonSchema } from "./openapi.ts";

export type Schemas = Readonly<Record<string, JsonSchema>>;

/** A field: `choices[].message`, what it may be, and what it does. */
export interface Row {
  readonly name: string;
  readonly type: string;
  readonly description: string;
}

/**
 * The fields of a schema; of several kinds of object, those of any. With `deep`, those of the objects in
 * them too, and without the word "required", which is for those who send.
 */
export function rowsOf(schema: JsonSchema, schemas: Schemas, deep = false, prefix = ""): Row[] {
  const kinds = kindsOf(schema, schemas);
  const names = new Set(kinds.flatMap(({ properties }) => Object.keys(properties ?? {})));
  return [...names].flatMap((name): Row[] => {
    const its = kinds.flatMap(({ properties }): JsonSchema[] => {
      const field = properties?.[name] as JsonSchema | undefined;
      return field ? [field] : [];
    });
    const required = !deep && kinds.every((kind) => kind.required?.includes(name));
    const words = [...new Set(its.map((one) => typeOf(one, schemas, deep)))].join(" or ");
    const row = {
      name: prefix + name,
      type: required ? `${words}, required` : words,
      description: its.find(({ description }) => description)?.description ?? "",
    };
    if (!deep) return [row];
    const inner = { anyOf: its.flatMap((one) => insideOf(one, schemas)) };
    const list = its.some((one) => kindsOf(one, schemas).some(({ type }) => type === "array"));
    return [row, ...rowsOf(inner, schemas, deep, `${row.name}${list ? "[]" : ""}.`)];
  });
}

/** The events of a stream: one for each kind, if they have kinds. */
export function eventsOf(schema: JsonSchema, schemas: Schemas): Row[] {
  const kinds = kindsOf(schema, schemas);
  if (kinds.length === 1) return rowsOf(schema, schemas, true);
  return kinds.map((kind) => {
    const { type, ...fields } = (kind.properties ?? {}) as Record<string, JsonSchema>;
    const holds = Object.keys(fields).join(", ");
    return { name: String(type?.const), type: holds, description: kind.description ?? "" };
  });
}

/** All that a schema may be, but null, without references. */
function kindsOf(schema: JsonSchema, schemas: Schemas): JsonSchema[] {
  if (schema.$ref) return kindsOf(schemas[schema.$ref.split("/").at(-1)!]!, schemas);
  const several = (schema.anyOf ?? schema.oneOf) as JsonSchema[] | undefined;
  if (several) return several.flatMap((one) => kindsOf(one, schemas));
  return schema.type === "null" ? [] : [schema];
}

/** Objects that a schema is, or is a list of. */
function insideOf(schema: JsonSchema, schemas: Schemas): JsonSchema[] {
  return kindsOf(schema, schemas).flatMap((kind) => {
    if (kind.type === "array") return insideOf((kind.items ?? {}) as JsonSchema, schemas);
    return kind.properties ? [kind] : [];
  });
}

/** A schema in words: "number from 0 to 2", "list of texts, 16 at most". Without bounds and fields if `deep`. */
function typeOf(schema: JsonSchema, schemas: Schemas, deep: boolean): string {
  const kinds = kindsOf(schema, schemas);
  if (kinds.length === 0) return "null";
  return [...new Set(kinds.map((kind) => kindOf(kind, schemas, deep)))].join(" or ");
}

function kindOf(schema: JsonSchema, schemas: Schemas, deep: boolean): string {
  const { enum: values, const: constant, type } = schema;
  if (values) return values.map((value) => JSON.stringify(value)).join(", ");
  if (constant !== undefined) return JSON.stringify(constant);
  const [only] = [type].flat().filter((one) => one !== "null");
  switch (only) {
    case "number":
    case "integer":
      return `${only === "integer" ? "whole number" : "number"}${deep ? "" : range(schema)}`;
    case "string":
      return `text${schema.maxLength === undefined ? "" : `, ${schema.maxLength} characters at most`}`;
    case "array":
      return `list of ${typeOf((schema.items ?? {}) as JsonSchema, schemas, deep)}${
        schema.maxItems === undefined || deep ? "" : `, ${schema.maxItems} at most`
      }`;
    case "boolean":
      return "true or false";
    case "object": {
      const names = Object.keys(schema.properties ?? {});
      return names.length === 0 || deep ? "object" : `{ ${names.join(", ")} }`;
    }
    default:
      return "anything";
  }
}

function range({ minimum, maximum }: JsonSchema): string {
  const low = minimum === Number.MIN_SAFE_INTEGER ? undefined : minimum;
  const high = maximum === Number.MAX_SAFE_INTEGER ? undefined : maximum;
  if (low !== undefined && high !== undefined) return ` from ${low} to ${high}`;
  if (low !== undefined) return `, ${low} at least`;
  return high === undefined ? "" : `, ${high} at most`;
}
