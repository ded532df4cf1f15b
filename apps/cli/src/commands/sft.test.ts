import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

let dir: string;
let model: string;
let data: string;
let mixed: string;

async function dsv3(argv: string[], io: ReturnType<typeof fakeIo> = fakeIo()) {
  const code = await runCli(argv, io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-sft-"));
  const texts = join(dir, "texts.jsonl");
  const text = JSON.stringify({ text: "one two three four five six seven" });
  await writeFile(texts, Array(10).fill(text).join("\n"));
  data = join(dir, "chats.jsonl");
  const chats = ["one", "two", "three", "four"].flatMap((word, i) => [
    { messages: [said("user", word), said("assistant", `${word}!`)], source: "echo" },
    { instruction: word, output: "five ".repeat(i === 3 ? 60 : 2) },
  ]);
  await writeFile(data, chats.map((chat) => JSON.stringify(chat)).join("\n"));
  mixed = join(dir, "mixed.jsonl");
  const bad = JSON.stringify({ messages: [said("nobody", "x")] });
  await writeFile(mixed, `${JSON.stringify(chats[0])}\n${bad}\n{"text": "no chat"}\n{`);
  const argv = ["--preset", "tiny", "--vocab-size", "300", "--batch", "2", "--length", "16"];
  const made = ["train", "--data", texts, "--out", join(dir, "base"), ...argv, "--steps", "1"];
  model = JSON.parse((await dsv3([...made, "--json"])).out).model;
});
afterAll(() => rm(dir, { recursive: true }));

const said = (role: string, content: string) => ({ role, content });

it("teaches, stops on Ctrl-C with a checkpoint, goes on, and counts what it left out", async () => {
  const run = join(dir, "run");
  const io = fakeIo();
  io.stderr.write = (text) => {
    if (text.includes("fine-tuning")) io.interrupt();
    io.stderr.text += text;
  };
  const settings = ["--epochs", "3", "--batch", "1", "--length", "48", "--learning-rate", "1e-3"];
  const first = await dsv3(
    ["sft", "--model", model, "--data", data, "--out", run, ...settings],
    io,
  );
  expect(first.code).toBe(130);
  expect(first.out).toContain(`dsv3 sft --resume ${run}`);

  const second = await dsv3(["sft", "--resume", run, "--json"]);
  expect(second).toMatchObject({ code: 0 });
  const result = JSON.parse(second.out);
  expect(result).toMatchObject({
    finished: true,
    conversations: { truncated: 1, skipped: 0, withoutTarget: 0, malformed: 0 },
  });
  const lines = (await readFile(join(run, "metrics.jsonl"), "utf8")).trim().split("\n");
  const metrics = lines.map((line) => JSON.parse(line));
  expect(metrics.map(({ step }) => step)).toEqual(metrics.map((_, i) => i + 1));
  expect(new Set(metrics.flatMap(({ sourceLoss }) => Object.keys(sourceLoss)))).toEqual(
    new Set(["echo", "chats.jsonl"]),
  );
  expect(metrics.at(-1).mainLoss).toBeLessThan(metrics[0].mainLoss);
  expect(second.err).toContain(`report: ${join(run, "report.html")}`);
  const report = await readFile(join(run, "report.md"), "utf8");
  for (const known of ["sourceLoss/echo", "settings.batch", "backend", "busiest over mean"]) {
    expect(report).toContain(known);
  }
  const ask = ["generate", "--model", result.model, "--prompt", "one", "--max-new-tokens", "4"];
  const asked = await dsv3([...ask, "--json"]);
  expect(asked).toMatchObject({ code: 0 });
});

it("goes on without malformed records where it may, and says which", async () => {
  const argv = ["--data", mixed, "--out", join(dir, "skipped"), "--skip-bad", "--json"];
  const result = await dsv3(["sft", "--model", model, ...argv]);
  expect(result).toMatchObject({ code: 0 });
  expect(JSON.parse(result.out).conversations.malformed).toBe(3);
  for (const problem of [":2: ", ":3: a text", ":4: not valid JSON"]) {
    expect(result.err).toContain(`warning: ${mixed}${problem}`);
  }
});

describe("refuses, and writes nothing:", () => {
  it.each<[message: string, code: number, argv: string[]]>([
    ["--model is missing", 2, ["--data", "DATA", "--out", "OUT"]],
    ["--data is missing", 2, ["--model", "MODEL", "--out", "OUT"]],
    ["--out is missing", 2, ["--model", "MODEL", "--data", "DATA"]],
    ["/nowhere", 1, ["--model", "/nowhere", "--data", "DATA", "--out", "OUT"]],
    ["unknown role", 1, ["--model", "MODEL", "--data", "MIXED", "--out", "OUT"]],
    ["long enough", 1, ["--model", "MODEL", "--data", "DATA", "--out", "OUT", "--length", "2"]],
    ["leave out the rest", 2, ["--resume", "OUT", "--model", "MODEL"]],
    ["not started by dsv3 sft", 1, ["--resume", "BASE"]],
  ])("%s", async (message, code, argv) => {
    const names: Record<string, string> = {
      ...{ OUT: join(dir, "none"), DATA: data, MIXED: mixed, MODEL: model },
      BASE: join(dir, "base"),
    };
    const result = await dsv3(["sft", ...argv.map((word) => names[word] ?? word)]);
    expect(result).toMatchObject({ code, out: "", err: expect.stringContaining(message) });
    expect((await readdir(dir)).includes("none")).toBe(false);
  });
});
