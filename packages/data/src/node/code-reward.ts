/** Rewards for code: what a reply wrote is run with tests, in a process that may do nothing else. */
import { spawn } from "node:child_process";
import type { Reward } from "../reward-functions.ts";

export interface CodeLimits {
  /** Of wall-clock time; 2000 unless told. */
  readonly milliseconds?: number;
  /** Of the JavaScript heap; 64 unless told. */
  readonly megabytes?: number;
}

export interface CodeRun {
  readonly passed: boolean;
  /** What ended it otherwise, for people. */
  readonly message: string;
}

/** Programs at once; the others wait. */
const AT_ONCE = 2;
const SAID = 2000;

/**
 * The child reads both texts from its standard input and runs them as one script without `require`,
 * `import`, or anything else of Node: V8's context has the language alone. It exits with 0 only when
 * the script came to its end, which is marked by a number that the code cannot know.
 */
const RUNNER = `
const { Script, createContext } = process.getBuiltinModule("node:vm");
let input = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk) => (input += chunk));
process.stdin.on("end", () => {
  const { code, tests, mark } = JSON.parse(input);
  const context = createContext(Object.create(null), {
    codeGeneration: { strings: false, wasm: false },
    microtaskMode: "afterEvaluate",
  });
  try {
    new Script(code, { filename: "reply.js" }).runInContext(context);
    new Script(tests, { filename: "tests.js" }).runInContext(context);
    process.stdout.write(mark);
  } catch (error) {
    let text = "an error without a message";
    try { text = String(error); } catch {}
    process.stderr.write(text.slice(0, ${SAID}));
    process.exitCode = 1;
  }
});
`;

let running = 0;
const waiting: (() => void)[] = [];

/**
 * Runs JavaScript and then tests, which throw unless it is right, in a child process under Node's
 * permission model: no files, no network, no processes, no workers, no environment, bounded time and memory.
 */
export async function runCode(
  code: string,
  tests: string,
  { milliseconds = 2000, megabytes = 64 }: CodeLimits = {},
): Promise<CodeRun> {
  if (running >= AT_ONCE) await new Promise<void>((resolve) => waiting.push(resolve));
  running++;
  try {
    return await runOne(code, tests, milliseconds, megabytes);
  } finally {
    running--;
    waiting.shift()?.();
  }
}

function runOne(
  code: string,
  tests: string,
  milliseconds: number,
  megabytes: number,
): Promise<CodeRun> {
  const mark = crypto.randomUUID();
  return new Promise((done, fail) => {
    const flags = ["--permission", `--max-old-space-size=${megabytes}`, "--no-warnings"];
    const child = spawn(process.execPath, [...flags, "--eval", RUNNER], {
      stdio: ["pipe", "pipe", "pipe"],
      env: {},
    });
    let [out, said, late] = ["", "", false];
    child.stdout.on("data", (chunk) => {
      out = (out + chunk).slice(0, SAID);
    });
    child.stderr.on("data", (chunk) => {
      said = (said + chunk).slice(-SAID);
    });
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, milliseconds);
    child.stdin.on("error", () => {}); // It may die before it has read everything.
    child.stdin.end(JSON.stringify({ code, tests, mark }));
    child.on("error", fail);
    child.on("close", (exit, signal) => {
      clearTimeout(timer);
      const passed = exit === 0 && out === mark;
      const message = late
        ? `ran for more than ${milliseconds} ms`
        : signal || /heap out of memory/.test(said)
          ? `needed more than ${megabytes} MB`
          : said || "ended before its tests did";
      done({ passed, message: passed ? "" : message });
    });
  });
}

/** What stands in the last fenced block of a reply, or else all of it. */
export function codeOf(reply: string): string {
  const blocks = [...reply.matchAll(/```[a-z]*\n([\s\S]*?)```/gi)];
  return blocks.at(-1)?.[1] ?? reply;
}

/** 1 when the code of a reply passes the question's `tests`, else 0. */
export function codeReward(limits: CodeLimits = {}): Reward {
  return async ({ tests, prompt }, { text }) => {
    if (tests === undefined) {
      throw new Error(`the question ${JSON.stringify(prompt.slice(0, 60))} has no tests`);
    }
    return (await runCode(codeOf(text), tests, limits)).passed ? 1 : 0;
  };
}
