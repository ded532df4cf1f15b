import { spawnSync } from "node:child_process";
import { describe, expect, it } from "vitest";
import { checkPython, runPython } from "./python-sandbox.ts";
import { documentOf, taskOf } from "./testing/documents.ts";
import { FakeModel } from "./testing/fake-model.ts";

it("says what is missing where there is no interpreter", async () => {
  const python = "no-such-python";
  await expect(runPython("pass", { python })).rejects.toThrow("there is no no-such-python");
  await expect(checkPython(python)).rejects.toThrow("install Python");
});

const hasPython = spawnSync("python3", ["--version"]).status === 0;

describe.skipIf(!hasPython)("programs", { timeout: 60_000 }, () => {
  it.each([
    [
      "runs to its end",
      "import math, re, hashlib\nprint(math.pi)\nassert re.match('a', 'ab')",
      "passed",
    ],
    ["fails", "assert 1 + 1 == 3, 'sums'", "AssertionError: sums"],
    ["is no program", "def f(:", "SyntaxError: invalid syntax"],
    ["leaves early, as if all were well", "import sys\nsys.exit(0)", "ended early, with code 0"],
    ["never ends", "while True: pass", "timed out"],
    ["takes all memory", "x = 'a' * (8 * 2**30)", "MemoryError"],
    [
      "writes without end",
      "import sys\nwhile True: sys.stderr.write('x' * 9999)",
      "wrote too much",
    ],
    ["writes a file", "open('x', 'w')", "PermissionError: the sandbox has no files"],
    ["reads a file", "open('/etc/passwd').read()", "PermissionError: the sandbox has no files"],
    [
      "starts a program",
      "import os\nos.system('true')",
      "PermissionError: the sandbox does not allow os.system",
    ],
    [
      "calls home",
      "import socket\nsocket.create_connection(('127.0.0.1', 9))",
      "PermissionError: the sandbox does not allow socket.getaddrinfo",
    ],
  ])("one that %s", async (_, program, result) => {
    const run = await runPython(program, { seconds: 2 });
    expect(run).toEqual({ passed: result === "passed", result });
  });

  it("humaneval passes answers that pass the tests", async () => {
    const question = taskOf("humaneval").read(
      documentOf({
        prompt: "def double(x):\n",
        test: "def check(candidate):\n    assert candidate(2) == 4\n",
        entry_point: "double",
      }),
    );
    const model = new FakeModel({ answers: () => ["    return 2 * x\n", "    return x\n"] });
    const settings = { repeats: 2, temperature: 1, seed: 0 };
    const { values } = await question.ask(model, "", settings);
    expect(values).toEqual({ "pass@1,create_test": 0.5, "pass@2,create_test": 1 });
  });
});
