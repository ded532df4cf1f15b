import { expect, test } from "vitest";
import { codeOf, codeReward, runCode } from "./code-reward.ts";

const TESTS = `if (add(2, 3) !== 5) throw new Error("2 + 3 is 5, not " + add(2, 3));`;
const RIGHT = "function add(a, b) { return a + b; }";

test("right and wrong code", async () => {
  const right = await runCode(RIGHT, TESTS);
  expect(right).toEqual({ passed: true, message: "" });
  expect((await runCode("const add = (a, b) => a - b", TESTS)).message).toContain(
    "2 + 3 is 5, not -1",
  );
  expect((await runCode("function add(", TESTS)).message).toContain("SyntaxError");
  expect((await runCode("", TESTS)).message).toContain("add is not defined");
});

test.each([
  ["files", "add = () => { process.getBuiltinModule('fs').readFileSync('/etc/passwd'); }"],
  ["modules", "require('child_process').execSync('id')"],
  ["the host's functions", "add = () => this.constructor.constructor('return process')().exit(0)"],
  ["network", "fetch('http://127.0.0.1')"],
  ["an early end", "process.exit(0)"],
  ["a forged error", "throw { toString() { throw 1 } }"],
  ["code from strings", "eval('1')"],
])("no %s", async (_, code) => {
  expect((await runCode(code, TESTS)).passed).toBe(false);
});

test("endless and greedy code is ended", async () => {
  const [endless, greedy] = await Promise.all([
    runCode("for (;;) {}", TESTS, { milliseconds: 700 }),
    runCode("const a = []; for (;;) a.push(new Array(1e5).fill(1.5));", TESTS, {
      ...{ milliseconds: 20_000, megabytes: 32 },
    }),
  ]);
  expect(endless).toEqual({ passed: false, message: "ran for more than 700 ms" });
  expect(greedy).toEqual({ passed: false, message: "needed more than 32 MB" });
}, 30_000);

test("code is the last block of a reply", async () => {
  expect(codeOf("Try\n```js\na\n```\nor\n```\nb\n```")).toBe("b\n");
  expect(codeOf("no block")).toBe("no block");
  const reward = codeReward();
  const reply = { text: `So:\n\`\`\`js\n${RIGHT}\n\`\`\``, tokens: 9, finished: true };
  expect(await reward({ prompt: "Add.", tests: TESTS }, reply)).toBe(1);
  expect(await reward({ prompt: "Add.", tests: TESTS }, { ...reply, text: "add" })).toBe(0);
  await expect(reward({ prompt: "Add." }, reply)).rejects.toThrow('"Add." has no tests');
});
