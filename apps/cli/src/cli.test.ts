import { describe, expect, it } from "vitest";
import { runCli } from "./cli.ts";
import { type Command, defineCommand } from "./command.ts";
import type { CommandEntry } from "./commands.ts";
import { describeError, EXIT } from "./errors.ts";
import { fakeIo } from "./testing.ts";

const greet: Command = defineCommand({
  summary: "Greets somebody.",
  flags: {
    times: { type: "integer", value: "N", help: "how often", default: 1, min: 1 },
    tone: { type: "choice", choices: ["warm", "cool"], help: "how", required: true },
    json: { type: "boolean", help: "print JSON" },
  },
  operands: { name: { help: "whom to greet" } },
  examples: ["greet Ada --tone warm"],
  async run({ times, tone, name }, io) {
    // Typed values: this would not compile if `times` could be undefined or `tone` any string.
    const words: Record<typeof tone, string> = { warm: "Hello", cool: "Hi" };
    for (let i = 0; i < times; i++) io.stdout.write(`${words[tone]} ${name}\n`);
  },
});

const failing = (error: unknown): Command =>
  defineCommand({
    summary: "Fails.",
    flags: {},
    examples: [],
    run: () => Promise.reject(error),
  });

const entry = (command: Command): CommandEntry => ({
  summary: command.summary,
  load: async () => command,
});

async function run(
  argv: string[],
  commands: Record<string, CommandEntry> = { greet: entry(greet) },
  io: ReturnType<typeof fakeIo> = fakeIo(),
) {
  const code = await runCli(argv, io, commands, "1.2.3");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

describe("runCli", () => {
  it("runs a command", async () => {
    expect(await run(["greet", "Ada", "--tone", "warm", "--times", "2"])).toEqual({
      code: EXIT.ok,
      out: "Hello Ada\nHello Ada\n",
      err: "",
    });
  });

  it("prints its version", async () => {
    expect(await run(["--version"])).toEqual({ code: EXIT.ok, out: "1.2.3\n", err: "" });
  });

  it("lists the commands without loading any", async () => {
    const load = () => Promise.reject(new Error("loaded"));
    const commands = { greet: { summary: "Greets somebody", load } };
    for (const argv of [["--help"], ["-h"], ["help"]]) {
      const { code, out } = await run(argv, commands);
      expect(code).toBe(EXIT.ok);
      expect(out).toContain("  greet  Greets somebody\n");
      expect(out).toContain("Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted.");
    }
    expect(await run([], commands)).toMatchObject({ code: EXIT.usage, out: "" });
  });

  it("prints what a command takes", async () => {
    const expected = [
      "Greets somebody.",
      "",
      "Usage: dsv3 greet NAME --tone warm|cool [flags]",
      "",
      "Arguments:",
      "  NAME              whom to greet",
      "",
      "Flags:",
      "  --times N         how often (default: 1)",
      "  --tone warm|cool  how (required)",
      "  --json            print JSON",
      "  --help            show this text",
      "",
      "Examples:",
      "  dsv3 greet Ada --tone warm",
      "",
    ].join("\n");
    for (const argv of [
      ["greet", "--help"],
      ["help", "greet"],
      ["greet", "-h", "--wrong"],
    ]) {
      expect(await run(argv)).toEqual({ code: EXIT.ok, out: expected, err: "" });
    }
  });

  it("answers a wrong command line with 2, what is wrong, and where to look", async () => {
    expect(await run(["greet", "Ada", "--tone", "warm", "--time", "3"])).toEqual({
      code: EXIT.usage,
      out: "",
      err: "dsv3 greet: unknown flag --time; did you mean --times?\nRun `dsv3 greet --help` to see what it takes.\n",
    });
    expect((await run(["gret"])).err).toContain(
      'dsv3: unknown command "gret"; did you mean greet?',
    );
    expect((await run(["toString"])).err).toContain('dsv3: unknown command "toString"\n');
    expect((await run(["--json", "greet"])).err).toContain("unknown flag --json before a command");
    expect((await run(["help", "gret"])).code).toBe(EXIT.usage);
  });

  it("answers a failure with 1 and one message, causes included", async () => {
    const error = new Error("cannot read model", {
      cause: new Error("no such file: m/config.json"),
    });
    expect(await run(["fail"], { fail: entry(failing(error)) })).toEqual({
      code: EXIT.failed,
      out: "",
      err: "dsv3 fail: cannot read model: no such file: m/config.json\n",
    });
    expect((await run(["fail"], { fail: entry(failing("text")) })).err).toBe("dsv3 fail: text\n");
    expect((await run(["fail"], { fail: entry(failing(new RangeError())) })).err).toBe(
      "dsv3 fail: RangeError\n",
    );
  });

  it("says what a message quotes of its cause only once", () => {
    const cause = new Error("line 3: expected a string");
    expect(describeError(new Error(`a.json: ${cause.message}`, { cause }), false)).toBe(
      "a.json: line 3: expected a string",
    );
  });

  it("adds the stack with DSV3_DEBUG=1", async () => {
    const io = fakeIo({ DSV3_DEBUG: "1" });
    const error = new Error("outer", { cause: new Error("inner") });
    const { err } = await run(["fail"], { fail: entry(failing(error)) }, io);
    expect(err).toMatch(/Error: outer\n\s+at .*cli\.test\.ts.*caused by Error: inner\n\s+at /s);
  });

  it("answers an interruption with 130, whether the command returns or throws", async () => {
    for (const stop of [() => {}, () => Promise.reject(new Error("aborted"))]) {
      const io = fakeIo();
      const command = defineCommand({
        summary: "Waits.",
        flags: {},
        examples: [],
        async run(_, { signal }) {
          io.interrupt();
          expect(signal.aborted).toBe(true);
          await stop();
        },
      });
      expect(await run(["wait"], { wait: entry(command) }, io)).toEqual({
        code: EXIT.interrupted,
        out: "",
        err: "",
      });
    }
  });
});
