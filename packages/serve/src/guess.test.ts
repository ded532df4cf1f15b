/** Guesses of several MTP modules, token by token, beside the modules' forward pass over the whole text. */
import { wasmBackend } from "@dsv3/backend-wasm";
import { forward, initParams, type ModelParams } from "@dsv3/model";
import { type Backend, disposeTree, key, setBackend, tensor } from "@dsv3/tensor";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Runner } from "./runner.ts";
import { Scheduler } from "./scheduler.ts";
import { Sequence } from "./sequence.ts";
import { config, prompt } from "./testing/tiny.ts";

const three = { ...config, vocabSize: 16, numNextnPredictLayers: 3 };
let backend: Backend;
let params: ModelParams;
beforeAll(async () => {
  backend = await wasmBackend({ threads: 1 });
  setBackend(backend);
  params = initParams(three, key(5));
});
afterAll(() => {
  disposeTree(params);
  backend.dispose();
});

/** The most likely token that module `depth` sees at `position`, by the training form. */
function byTraining(tokens: readonly number[], depth: number, position: number): number {
  const ids = tensor(Int32Array.from(tokens), { shape: [1, tokens.length], dtype: "i32" });
  const logits = forward(params, ids, three, { mtp: true }).mtpLogits[depth - 1]!;
  const values = logits.dataSync() as Float32Array;
  const row = values.subarray(position * 16, (position + 1) * 16);
  return row.indexOf(Math.max(...row));
}

test("module k guesses the k-th token from what the modules before made of the true tokens", async () => {
  const sizes = { blocks: 8, maxContext: 256, batchInvariant: true, ahead: 3 } as const;
  const dtypes = { computeDtype: "f32", cacheDtype: "f32" } as const;
  const runner = new Runner({ params, config: three, ...sizes, ...dtypes });
  const scheduler = new Scheduler({ blocks: 8, maxRunning: 4, maxPrefill: 24 });
  const ids = prompt(41, 3).map((id) => id % 16);
  const sequence = new Sequence({ prompt: ids, temperature: 1 }, 0, 7, 0);
  scheduler.add(sequence);

  let [accepted, refused] = [0, 0];
  for (let step = 0; step < 24; step++) {
    const { prefill, decode } = scheduler.plan();
    const [chunk] = prefill;
    const [progress] = decode.length > 0 ? await runner.decode(decode) : [];
    const { drawn, drafts } = progress ??
      (await runner.prefill(chunk!)) ?? { drawn: [], drafts: [] };
    if (drawn.length === 0) continue; // the prompt is not yet computed
    refused += sequence.drafts.length - (drawn.length - 1);
    for (const [i, { token }] of drawn.entries()) {
      if (i > 0) {
        accepted++;
        scheduler.accept(sequence);
      }
      sequence.append(token);
    }
    expect(drafts.length).toBe(3);
    const known = [...sequence.tokens];
    const last = known.length - 2;
    for (const [i, draft] of drafts.entries()) {
      // Depth k reads k tokens more than those up to its position, and what it predicts is not read.
      expect(draft).toBe(byTraining([...known, 0], i + 1, last));
      known.push(draft);
    }
    // At times fewer guesses are checked than were made.
    sequence.drafts = drafts.slice(0, 3 - (step % 3));
  }
  expect(accepted).toBeGreaterThan(1);
  expect(refused).toBeGreaterThan(10);
  runner.dispose();
}, 60_000);
