import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { wasmBackend } from "@dsv3/backend-wasm";
import { initParams, PRESETS, saveModel } from "@dsv3/model";
import { disposeTree, key, setBackend } from "@dsv3/tensor";
import { trainBpe } from "@dsv3/tokenizer";
import { saveTokenizer } from "@dsv3/tokenizer/node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";
import { ChatSession } from "./chat-session.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-chat-"));
  const backend = await wasmBackend({ threads: 1 });
  setBackend(backend);
  const tokenizer = trainBpe(["some words"], { vocabSize: 300 });
  const config = { ...PRESETS.tiny, vocabSize: tokenizer.vocabSize };
  const params = initParams(config, key(0));
  await saveModel(join(folder, "my-model"), config, params);
  await saveTokenizer(tokenizer, join(folder, "my-model"));
  disposeTree(params);
  backend.dispose();
});
afterAll(() => rm(folder, { recursive: true }));

async function type(lines: readonly string[], ...argv: string[]) {
  const io = { ...fakeIo(), stdin: bytes(lines) };
  const code = await runCli(["chat", ...argv], io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

async function* bytes(lines: readonly string[]) {
  yield new TextEncoder().encode(lines.map((line) => `${line}\n`).join(""));
}

test("a conversation with a folder is kept, taken back, and gone on from", async () => {
  const model = ["--model", join(folder, "my-model"), "--max-tokens", "6", "--seed", "1"];
  const file = join(folder, "kept.json");
  const said = ["some words", "/system be brief", "and more", `/save ${file}`, "/undo"];
  const first = await type([...said, `/load ${file}`, "/undo", "/exit", "never"], ...model);
  expect([first.code, first.err]).toEqual([0, expect.any(String)]);
  expect(first.err).toMatch(/^\d tokens, .* a second; 0 of the prompt's \d+ from the cache\n/);
  expect(first.err).toContain("system: be brief\n");
  expect(first.err).toContain(`4 messages are in ${file}\n`);
  expect(first.err.match(/taken back: and more/g)).toHaveLength(2);
  expect(first.err).not.toContain("never");
  const kept = JSON.parse(await readFile(file, "utf8")).messages;
  expect(kept.map(({ role }: { role: string }) => role)).toEqual([
    "system",
    "user",
    "assistant",
    "user",
    "assistant",
  ]);
  expect(first.out).toContain(kept[2].content);
  const again = await type(["some words"], ...model);
  expect(again.out).toBe(`${kept[2].content}\n`);
});

test("an answer cannot command a terminal, and is exact elsewhere", async () => {
  const hostile = "a\u001b[2Jb\u0007\u009bc\n\td";
  const server = createServer((_, response) => {
    const event = { choices: [{ delta: { content: hostile } }] };
    response.end(`data: ${JSON.stringify(event)}\n\ndata: [DONE]\n\n`);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  const say = async (isTTY: boolean) => {
    const io = { ...fakeIo(), stdin: bytes(["hi"]) };
    io.stdout.isTTY = isTTY;
    await runCli(["chat", "--model", url, "--name", "m"], io, commands, "0.0.0");
    return io.stdout.text;
  };
  expect(await say(false)).toBe(`${hostile}\n`);
  expect(await say(true)).toBe("a\ufffd[2Jb\ufffd\ufffdc\n\td\n");
  server.close();
});

test("what cannot be done is said, and ends a script", async () => {
  const model = ["--model", join(folder, "my-model")];
  const bad = join(folder, "bad.json");
  await writeFile(bad, '{"messages":[{"role":"king","content":"x"}]}');
  const fails = async (line: string, message: string) => {
    const { code, err } = await type([line], ...model);
    expect([code, err]).toEqual([1, expect.stringContaining(message)]);
  };
  await fails("/nothing", "there is no /nothing");
  await fails("/save", "needs the name of a file");
  await fails(`/load ${bad}`, "message 0 is not");
  await fails("long ".repeat(200), "context of 128");
  expect((await type([], "--model", join(folder, "none"))).code).toBe(1);
});

test("a server's key, model and errors are minded, and its stream is read in any pieces", async () => {
  const requests: { url?: string; key?: string; body: string }[] = [];
  const answers = [
    '{"data":[{"id":"far-model"}]}',
    ': wait\n\ndata: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\r\n\r\ndata:{"choices":[{"delta":{"content":"héllo"}}]}\n\ndata: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\ndata: [DONE]\n\n',
    'data: {"choices":[{"delta":{"content":"x"}}]}\n\n',
  ];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    requests.push({ url: request.url!, key: request.headers.authorization!, body });
    for (const byte of Buffer.from(answers.shift()!)) response.write(Buffer.of(byte));
    response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  const io = { ...fakeIo({ DSV3_API_KEY: "secret" }), stdin: bytes(["hi", "more"]) };
  const code = await runCli(["chat", "--model", url], io, commands, "0.0.0");
  server.close();
  expect(io.stdout.text).toBe("hmhéllo\nx");
  expect([code, io.stderr.text]).toEqual([1, expect.stringContaining("broke off")]);
  expect(requests.map(({ key }) => key)).toEqual(Array(3).fill("Bearer secret"));
  expect(JSON.parse(requests[2]!.body)).toMatchObject({
    model: "far-model",
    messages: [
      { role: "user", content: "hi" },
      { role: "assistant", content: "héllo" },
      { role: "user", content: "more" },
    ],
  });
});

test("an answer that is stopped stays as far as it came", async () => {
  const endless = new ReadableStream<Uint8Array>({
    async pull(controller) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      const event = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n';
      controller.enqueue(new TextEncoder().encode(event));
    },
  });
  const fetch = () => new Response(endless);
  const session = new ChatSession({ url: "http://x", model: "m", fetch }, {});
  const stop = new AbortController();
  let text = "";
  for await (const piece of session.say("hi", stop.signal)) {
    text += piece.text;
    if (text.length === 3) stop.abort();
  }
  expect(text).toBe("aaa");
  expect(session.messages.at(-1)).toEqual({ role: "assistant", content: "aaa" });
  expect(session.undo()).toBe("hi");
  expect(session.undo()).toBeNull();
});
