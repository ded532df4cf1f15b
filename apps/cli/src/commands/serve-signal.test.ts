/** How `dsv3 serve` ends as a process. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { wasmBackend } from "@dsv3/backend-wasm";
import { initParams, PRESETS, saveModel } from "@dsv3/model";
import { disposeTree, key, setBackend } from "@dsv3/tensor";
import { trainBpe } from "@dsv3/tokenizer";
import { saveTokenizer } from "@dsv3/tokenizer/node";
import { afterAll, beforeAll, expect, test } from "vitest";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-signal-"));
  const backend = await wasmBackend({ threads: 1 });
  setBackend(backend);
  const tokenizer = trainBpe(["some words"], { vocabSize: 300 });
  const context = { maxPositionEmbeddings: 4096, ropeScaling: null };
  const config = { ...PRESETS.tiny, ...context, vocabSize: tokenizer.vocabSize };
  const params = initParams(config, key(0));
  await saveModel(join(folder, "model"), config, params);
  await saveTokenizer(tokenizer, join(folder, "model"));
  disposeTree(params);
  backend.dispose();
});
afterAll(() => rm(folder, { recursive: true }));

/** A server in a process of its own, with an answer at work. */
async function busy(drain: string, maxTokens: number) {
  const main = join(import.meta.dirname, "../main.ts");
  const words = ["serve", "--model", join(folder, "model"), "--backend", "wasm", "--port", "0"];
  const child = spawn(process.execPath, [main, ...words, "--drain", drain], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.once("data", (data) => resolve(String(data).trim()));
    child.once("exit", (code) => reject(new Error(`ended with ${code} before it served`)));
  });
  const complete = () =>
    fetch(`${url}/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        ...{ model: "model", prompt: "some", max_tokens: maxTokens },
        ...{ ignore_eos: true, stream: true },
      }),
    });
  const answer = await complete();
  return { child, answer, complete };
}

function exited(child: ChildProcess): Promise<{ code: number | null; ms: number }> {
  const began = performance.now();
  return new Promise((resolve) => {
    child.once("exit", (code) => resolve({ code, ms: performance.now() - began }));
    child.kill("SIGTERM");
  });
}

test("told to stop, it ends what is at work, takes nothing new, and exits with 0", async () => {
  const { child, answer, complete } = await busy("30", 150);
  const ended = exited(child);
  const text = await answer.text();
  expect(text).toMatch(/"finish_reason":"length".*\n\ndata: \[DONE\]\n\n$/);
  const refused = await complete().then(
    ({ status }) => status,
    () => 503,
  );
  expect(refused).toBe(503);
  expect((await ended).code).toBe(0);
}, 30_000);

test("without patience it exits at once, and says so in the stream", async () => {
  const { child, answer } = await busy("0", 4000);
  const ended = exited(child);
  const last = (await answer.text()).trim().split("\n\n").at(-1);
  expect(last).toContain("the server stopped");
  const { code, ms } = await ended;
  expect(code).toBe(0);
  expect(ms).toBeLessThan(4100);
}, 30_000);
