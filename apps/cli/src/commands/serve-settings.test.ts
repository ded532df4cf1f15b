import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Flag } from "../flags.ts";
import { printedSettings, readSettings } from "./serve-settings.ts";

const flags = {
  model: { type: "list", value: "DIR", help: "a folder", required: true },
  host: { type: "string", value: "ADDRESS", help: "an address", default: "127.0.0.1" },
  maxRunning: { type: "integer", value: "N", help: "at once", default: 16, min: 1 },
  drain: { type: "number", value: "SECONDS", help: "patience", default: 30, min: 0 },
  pooling: { type: "choice", choices: ["mean", "last"], help: "how", default: "mean" },
  fast: { type: "boolean", help: "faster" },
  config: { type: "string", value: "FILE", help: "settings" },
  printConfig: { type: "boolean", help: "print them" },
} as const satisfies Record<string, Flag>;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-settings-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function file(content: unknown): Promise<string> {
  const path = join(folder, "serve.json");
  await writeFile(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

test("the command line goes before the environment, that before the file, that before defaults", async () => {
  const config = await file({
    model: ["c"],
    "max-running": 3,
    drain: 0.5,
    pooling: "last",
    fast: true,
  });
  const env = { DSV3_SERVE_MAX_RUNNING: "2", DSV3_SERVE_DRAIN: "0.4", DSV3_API_KEY: "x", PATH: "" };
  const argv = ["--model", "a", "--model", "b=c", "--max-running", "1", "--config", config];
  const settings = await readSettings(argv, flags, env);
  expect(settings).toEqual({
    ...{ model: ["a", "b=c"], host: "127.0.0.1", maxRunning: 1, drain: 0.4, pooling: "last" },
    ...{ fast: true, config, printConfig: false },
  });
  const byEnv = { DSV3_SERVE_MODEL: "a,b", DSV3_SERVE_FAST: "1", DSV3_SERVE_CONFIG: config };
  expect(await readSettings([], flags, byEnv)).toMatchObject({ model: ["a", "b"], drain: 0.5 });
});

test("what is printed is a file that gives the same settings, without passwords", async () => {
  const argv = ["--model", "http://me:secret@a", "--host", "http://me:secret@there"];
  const printed = printedSettings(await readSettings(argv, flags, {}));
  expect(JSON.stringify(printed)).not.toContain("secret");
  const again = await readSettings(["--config", await file(printed)], flags, {});
  const [host, model] = ["http://me:(hidden)@there", ["http://me:(hidden)@a"]];
  expect(again).toMatchObject({ host, model, drain: 30 });
});

test.each<[string, string[], Record<string, string>, unknown, string]>([
  [
    "an unknown variable",
    [],
    { DSV3_SERVE_MAX_RUNING: "1" },
    {},
    "did you mean DSV3_SERVE_MAX_RUN",
  ],
  ["an unknown key", [], {}, { "max-runing": 1 }, "json is unknown; did you mean max-running?"],
  ["a key of another spelling", [], {}, { maxRunning: 1 }, '"maxRunning" in'],
  ["a file in the file", [], {}, { config: "x" }, '"config" in'],
  ["a key of Object's", [], {}, '{"__proto__": 1}', '"__proto__" in'],
  ["a number that is none", [], { DSV3_SERVE_DRAIN: "x" }, {}, 'DSV3_SERVE_DRAIN is "x", but'],
  ["a number out of range", [], {}, { "max-running": 0 }, '"max-running" in'],
  ["a text for a number", [], {}, { "max-running": "4" }, 'is "4", but must be a whole number'],
  ["a choice that is none", [], {}, { pooling: "max" }, "must be one of mean, last"],
  ["a flag that is no flag", [], { DSV3_SERVE_FAST: "maybe" }, {}, "must be 1 or 0"],
  ["a text for a list", [], {}, { model: "a" }, "must be a list of texts"],
  ["no JSON", [], {}, "port: 80", "as JSON"],
  ["a list", [], {}, [], "must hold an object"],
  ["a word too many", ["x"], {}, {}, 'unexpected argument "x"'],
])("%s is refused", async (_, argv, env, content, message) => {
  const words = ["--model", "a", "--config", await file(content), ...argv];
  await expect(readSettings(words, flags, env)).rejects.toThrow(message);
});

test("what is needed may be in the file, but somewhere it must be", async () => {
  const config = ["--config", await file({})];
  await expect(readSettings(config, flags, {})).rejects.toThrow("--model is missing");
});

test("a file that is not there is an error", async () => {
  await expect(readSettings(["--config", "nowhere.json"], flags, {})).rejects.toThrow(
    "cannot read",
  );
});
