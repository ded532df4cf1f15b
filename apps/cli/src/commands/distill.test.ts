import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-distill-"));
});
afterAll(() => rm(dir, { recursive: true }));

async function dsv3(argv: string[], io: ReturnType<typeof fakeIo> = fakeIo()) {
  const code = await runCli(["distill", ...argv], io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}
const lines = async (file: string) =>
  (await readFile(file, "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

type Asked = { messages: { role: string; content: string }[]; seed: number };
let server: Server | undefined;
afterEach(() => new Promise<void>((done) => (server ? server.close(() => done()) : done())));

/** A teacher that adds: wrong at first, right at the second seed, refusing when told to. */
async function adder(refuse: (asked: number) => number | undefined = () => undefined) {
  const asked: Asked[] = [];
  server = createServer(async (request, response) => {
    const answer = (status: number, value: object) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(value));
    };
    if (request.url === "/v1/models") return answer(200, { data: [{ id: "adder" }] });
    let body = "";
    for await (const chunk of request) body += chunk;
    const question = JSON.parse(body) as Asked;
    asked.push(question);
    const status = refuse(asked.length);
    if (status !== undefined) return answer(status, { error: { message: "busy" } });
    const [a, b] = (question.messages.at(-1)?.content ?? "").match(/\d+/g)?.map(Number) ?? [];
    const sum = (a ?? 0) + (b ?? 0) + (question.seed % 2 === 0 ? 1 : 0);
    const message = { reasoning_content: "I add.", content: `\\boxed{${sum}}` };
    const finish_reason = a === 9 ? "length" : "stop";
    answer(200, { choices: [{ message, finish_reason }], usage: { completion_tokens: 5 } });
  });
  await new Promise<void>((done) => server?.listen(0, "127.0.0.1", done));
  const port = (server?.address() as AddressInfo | undefined)?.port;
  return { url: `http://127.0.0.1:${port}/v1`, asked };
}

async function problems(name: string): Promise<string> {
  const file = join(dir, name);
  const all = [
    { prompt: "1 + 2", answer: 3, response: "It is 3." },
    { prompt: "9 + 9", answer: 18, response: "It is 18." },
    { prompt: "2 + 2", answer: 5, response: "It is 5." },
    { prompt: "4 + 4", answer: 8 },
  ];
  await writeFile(file, all.map((p) => JSON.stringify(p)).join("\n"));
  return file;
}

it("keeps good answers in the report's two forms, and nothing of questions without one", async () => {
  const { url, asked } = await adder();
  const data = await problems("a.jsonl");
  const out = join(dir, "a-taught.jsonl");
  const argv = ["--teacher", url, "--data", data, "--out", out, "--reward", "number", "--json"];
  const { code, out: printed } = await dsv3([...argv, "--attempts", "3", "--system", "Think."]);
  expect(code).toBe(0);
  const thought = (n: number) => `<think>\nI add.\n</think>\n\n\\boxed{${n}}`;
  const user = (content: string) => ({ role: "user", content });
  const said = (content: string) => ({ role: "assistant", content });
  const system = { role: "system", content: "Think." };
  expect(await lines(out)).toEqual([
    { source: "original", messages: [user("1 + 2"), said("It is 3.")] },
    { source: "distilled", messages: [system, user("1 + 2"), said(thought(3))] },
    // The wrong sum at an even seed is the answer that is asked for here.
    { source: "original", messages: [user("2 + 2"), said("It is 5.")] },
    { source: "distilled", messages: [system, user("2 + 2"), said(thought(5))] },
    { source: "distilled", messages: [system, user("4 + 4"), said(thought(8))] },
  ]);
  // 2, 3 (cut every time), 1 and 2 answers.
  expect(JSON.parse(printed)).toMatchObject({
    questions: 4,
    answered: 3,
    accepted: 3,
    attempts: 8,
  });
  expect(asked[0]?.messages[0]).toEqual(system);
  expect((await dsv3(argv)).err).toContain("exists already");
});

it("goes on where it was broken off, also within a line", async () => {
  const { url, asked } = await adder((n) => (n > 4 ? 400 : undefined));
  const data = await problems("b.jsonl");
  const out = join(dir, "b-taught.jsonl");
  const argv = ["--teacher", url, "--data", data, "--out", out, "--reward", "number"];
  const broken = await dsv3([...argv, "--attempts", "2", "--parallel", "1"]);
  expect(broken.code).toBe(1);
  expect(broken.err).toContain("refused with status 400");
  await expect(stat(out)).rejects.toThrow("ENOENT");
  const part = await readFile(`${out}.part`, "utf8");
  expect(part.trim().split("\n")).toHaveLength(3);
  await writeFile(`${out}.part`, `${part}{"index":2,"cha`);
  await new Promise<void>((done) => server?.close(() => done()));

  expect((await dsv3([...argv, "--attempts", "3"])).err).toContain("other settings");
  const before = asked.length;
  const again = await adder();
  // The same teacher, which has moved.
  const [head, ...rest] = (await readFile(`${out}.part`, "utf8")).split("\n");
  const moved = JSON.stringify({ ...JSON.parse(head as string), model: again.url });
  await writeFile(`${out}.part`, [moved, ...rest].join("\n"));
  const done = await dsv3(["--teacher", again.url, ...argv.slice(2), "--attempts", "2"]);
  expect(done).toMatchObject({ code: 0 });
  expect(before).toBe(5);
  expect(again.asked.map(({ messages }) => messages.at(-1)?.content).sort()).toEqual([
    "2 + 2",
    "4 + 4",
    "4 + 4",
  ]);
  expect((await lines(out)).map(({ source }) => source)).toHaveLength(5);
  await expect(stat(`${out}.part`)).rejects.toThrow("ENOENT");
});

it("asks a busy server again", async () => {
  const { url, asked } = await adder((n) => (n === 1 ? 429 : n === 2 ? 503 : undefined));
  const out = join(dir, "busy.jsonl");
  const data = await problems("c.jsonl");
  const argv = ["--teacher", url, "--data", data, "--out", out, "--reward", "boxed"];
  expect(await dsv3([...argv, "--parallel", "1", "--attempts", "1"])).toMatchObject({ code: 0 });
  expect(asked.length).toBe(6);
});

it("a model of a folder teaches tasks", async () => {
  const texts = join(dir, "texts.jsonl");
  await writeFile(texts, JSON.stringify({ text: "one two three four five six seven" }));
  const io = fakeIo();
  const small = ["--preset", "tiny", "--vocab-size", "300", "--batch", "2", "--length", "8"];
  const made = ["train", "--data", texts, "--out", join(dir, "base"), ...small, "--steps", "1"];
  await runCli([...made, "--json"], io, commands, "0.0.0");
  const { model } = JSON.parse(io.stdout.text);
  const out = join(dir, "tasks.jsonl");
  const argv = ["--teacher", model, "--task", "sort", "--count", "3", "--out", out, "--json"];
  const limits = ["--max-tokens", "4", "--attempts", "2", "--backend", "wasm"];
  const done = await dsv3([...argv, ...limits]);
  expect(done).toMatchObject({ code: 0 });
  // It has learnt nothing, so that nothing is kept.
  expect(JSON.parse(done.out)).toMatchObject({ questions: 3, attempts: 6, accepted: 0, chats: 0 });
  expect(await readFile(out, "utf8")).toBe("");
}, 60_000);
