/** Functions that a model may call: what it is told of them, and how it is made to call one. */
import type { Format, FunctionSpec } from "@dsv3/serve";
import { SPECIAL_TOKENS, type SpecialRole, type Tokenizer } from "@dsv3/tokenizer";
import { badRequest } from "./errors.ts";
import type { ChatRequest } from "./schemas.ts";

export interface Tools {
  /** What a system message says of them. */
  readonly description: string;
  /** Control tokens that calls are made of. */
  readonly ids: readonly number[];
  /** Set where the answer must be a call: how it begins, and what binds the rest. */
  readonly forced: {
    readonly text: string;
    readonly ids: readonly number[];
    readonly format: Format;
  } | null;
}

const SIGNS: readonly SpecialRole[] = [
  "toolCallsBegin",
  "toolCallsEnd",
  "toolCallBegin",
  "toolCallEnd",
  "toolSep",
];

/** The request's functions, null if it has none or forbids them. @throws ApiError for those that cannot be called */
export function toolsOf(request: ChatRequest, tokenizer: Tokenizer): Tools | null {
  const functions = (request.tools ?? []).map((tool) => tool.function);
  const choice = request.tool_choice ?? "auto";
  const named = typeof choice === "object" ? choice.function.name : null;
  const called = named === null ? functions : functions.filter(({ name }) => name === named);
  if (choice !== "auto" && choice !== "none" && called.length === 0) {
    const what = named === null ? "no tools are given" : `there is no tool "${named}"`;
    throw badRequest("tool_choice", what);
  }
  if (functions.length === 0 || choice === "none") return null;
  const lacking = SIGNS.find((role) => tokenizer.special[role] === undefined);
  if (lacking) {
    const problem = `this model's vocabulary has no ${SPECIAL_TOKENS[lacking]} to call tools with`;
    throw badRequest("tools", problem, "unsupported_parameter");
  }
  return {
    description: describe(functions),
    ids: SIGNS.map((role) => tokenizer.specialId(role)),
    forced: choice === "auto" ? null : force(called, tokenizer),
  };
}

function describe(functions: readonly (FunctionSpec & { description?: string | null })[]): string {
  const list = functions.map(({ name, description, parameters }) =>
    [
      `### ${name}`,
      ...(description ? [`Description: ${description}`] : []),
      `Parameters: ${JSON.stringify(parameters ?? { type: "object" })}`,
    ].join("\n"),
  );
  return ["## Tools", "These functions can be called:", ...list].join("\n\n");
}

/** The prompt begins the call, and a grammar sees to it that it is one. */
function force(functions: readonly FunctionSpec[], tokenizer: Tokenizer): Tools["forced"] {
  const { toolCallsBegin, toolCallBegin, toolSep } = SPECIAL_TOKENS;
  return {
    text: `${toolCallsBegin}${toolCallBegin}function${toolSep}`,
    ids: [
      tokenizer.specialId("toolCallsBegin"),
      tokenizer.specialId("toolCallBegin"),
      ...tokenizer.encode("function"),
      tokenizer.specialId("toolSep"),
    ],
    format: {
      type: "call",
      functions: functions.map(({ name, parameters }) => ({ name, parameters })),
    },
  };
}
