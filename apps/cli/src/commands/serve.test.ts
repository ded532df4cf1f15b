import { mkdtemp, rm, writeFile } from "node:fs/promises";
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

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-serve-"));
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

test("serves a folder until it is stopped, and ends well", async () => {
  const io = fakeIo({ DSV3_API_KEY: "secret" });
  const model = join(folder, "my-model");
  const argv = ["serve", "--model", model, "--port", "0", "--speculate"];
  const ended = runCli(argv, io, commands, "0.0.0");
  await expect.poll(() => io.stdout.text, { timeout: 20_000 }).toMatch(/^http:.*\/v1\n$/);
  const url = io.stdout.text.trim();
  expect((await fetch(`${url}/models`)).status).toBe(401);
  const response = await fetch(`${url}/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer secret" },
    body: JSON.stringify({ model: "my-model", prompt: "some", max_tokens: 3 }),
  });
  expect(await response.json()).toMatchObject({ object: "text_completion", model: "my-model" });
  io.interrupt();
  expect(await ended).toBe(0);
  await expect(fetch(`${url}/models`)).rejects.toThrow();
});

test("what is wrong is said before anything is served", async () => {
  const empty = join(folder, "keys.txt");
  await writeFile(empty, "\n");
  const serve = async (...argv: string[]) => {
    const io = fakeIo();
    const code = await runCli(["serve", ...argv], io, commands, "0.0.0");
    return [code, io.stderr.text] as const;
  };
  const model = ["--model", join(folder, "my-model")];
  expect(await serve()).toEqual([2, expect.stringContaining("--model is missing")]);
  expect(await serve(...model, "--keys", empty)).toEqual([
    2,
    expect.stringContaining("holds no key"),
  ]);
  expect(await serve(...model, "--max-context", "999")).toEqual([
    1,
    expect.stringContaining("the model's context ends at 128"),
  ]);
  expect(await serve("--model", join(folder, "none"))).toEqual([1, expect.any(String)]);
});
