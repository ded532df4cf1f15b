import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { UsageError } from "./errors.ts";
import { type Flag, kebab, type Operand, parseCommandLine } from "./flags.ts";

const flags: Record<string, Flag> = {
  model: { type: "string", value: "DIR", help: "folder of the model", required: true },
  maxSteps: { type: "integer", value: "N", help: "how many steps", default: 10, min: 1, max: 99 },
  learningRate: { type: "number", value: "X", help: "peak learning rate" },
  dtype: { type: "choice", choices: ["f32", "bf16"], help: "precision", default: "f32" },
  json: { type: "boolean", help: "print JSON" },
};
const operands: Record<string, Operand> = {
  prompt: { help: "text to go on from", optional: true },
};

const parse = (line: string) => parseCommandLine(line.split(" "), flags, operands);

/** The message of the usage error that a command line leads to. */
function complaint(line: string): string {
  try {
    parse(line);
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    return (error as Error).message;
  }
  throw new Error(`accepted: ${line}`);
}

describe("parseCommandLine", () => {
  it("collects flags that may be repeated", () => {
    const list: Record<string, Flag> = { model: { type: "list", value: "DIR", help: "folders" } };
    const read = (...argv: string[]) => parseCommandLine(argv, list, {}).model;
    expect(read("--model", "a", "--model=b")).toEqual(["a", "b"]);
    expect(read()).toEqual([]);
    expect(() => read("--model")).toThrow("--model needs a value");
  });

  it("reads every kind of flag, in both spellings, and operands between them", () => {
    const line = "--model m --max-steps=7 hello --learning-rate 3e-4 --dtype bf16 --json";
    expect(parse(line)).toEqual({
      model: "m",
      maxSteps: 7,
      learningRate: 3e-4,
      dtype: "bf16",
      json: true,
      prompt: "hello",
    });
  });

  it("fills in defaults, and leaves undefined what has none", () => {
    expect(parse("--model m")).toEqual({
      model: "m",
      maxSteps: 10,
      learningRate: undefined,
      dtype: "f32",
      json: false,
      prompt: undefined,
    });
  });

  it("takes negative numbers and dashed text as values", () => {
    expect(parse("--model m --learning-rate -0.5").learningRate).toBe(-0.5);
    expect(parse("--model=--odd-name").model).toBe("--odd-name");
    expect(parse("--model m -- --json").prompt).toBe("--json");
  });

  it.each([
    ["--model m --max-step 3", "unknown flag --max-step; did you mean --max-steps?"],
    ["--model m --colour", "unknown flag --colour"],
    ["--model m --no-json", "unknown flag --no-json"],
    ["--model m -j", "unknown flag -j"],
    ["--model m --__proto__ x", "unknown flag --__proto__"],
    ["--json", "--model is missing: folder of the model"],
    ["--model", "--model needs a value"],
    ["--model=", "--model needs a value"],
    [
      "--model --json",
      "--model needs a value, but --json follows (if that is the value, write --model=--json)",
    ],
    ["--model a --model b", "--model is given twice"],
    ["--model m --json=yes", '--json takes no value, but got "yes"'],
    ["--model m --dtype f8", '--dtype is "f8", but must be one of f32, bf16'],
    [
      "--model m --max-steps 1.5",
      '--max-steps is "1.5", but must be a whole number, at least 1 and at most 99',
    ],
    [
      "--model m --max-steps 0",
      '--max-steps is "0", but must be a whole number, at least 1 and at most 99',
    ],
    [
      "--model m --max-steps 100",
      '--max-steps is "100", but must be a whole number, at least 1 and at most 99',
    ],
    ["--model m --learning-rate fast", '--learning-rate is "fast", but must be a number'],
    ["--model m --learning-rate Infinity", '--learning-rate is "Infinity", but must be a number'],
    ["--model m one two", 'unexpected argument "two"'],
  ])("refuses %s", (line, message) => {
    expect(complaint(line)).toBe(message);
  });

  it("asks for a missing operand", () => {
    expect(() => parseCommandLine([], {}, { file: { help: "what to read" } })).toThrow(
      "FILE is missing: what to read",
    );
  });

  it("gives all words that are left to an operand that takes many", () => {
    const many = { to: { help: "where" }, files: { help: "what", many: true } } as const;
    expect(parseCommandLine(["a", "b", "c"], {}, many)).toEqual({ to: "a", files: ["b", "c"] });
    expect(() => parseCommandLine(["a"], {}, many)).toThrow("FILES is missing: what");
  });

  it("answers any command line with values or a usage error, never with a crash", () => {
    const word = fc.oneof(
      fc.string(),
      fc.constantFrom("--model", "--json", "--", "-", "--max-steps", "--dtype=f32", "3", "-1"),
    );
    fc.assert(
      fc.property(fc.array(word), (argv) => {
        try {
          expect(typeof parseCommandLine(argv, flags, operands).model).toBe("string");
        } catch (error) {
          expect(error).toBeInstanceOf(UsageError);
        }
      }),
    );
  });
});

it("kebab", () => {
  expect(kebab("maxSeqLen")).toBe("max-seq-len");
});
