import { Corpus, PackedRows } from "@dsv3/data";
import { initParams } from "@dsv3/model";
import { disposeTree, key, memory, setBackend, treeMap, zeros } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, expect, test } from "vitest";
import { bitsPerByte } from "./bits-per-byte.ts";
import { counting, smallConfig } from "./testing.ts";

beforeAll(() => setBackend(referenceBackend()));

const size = { batches: 2, batch: 2, length: 8 };

test("a model that knows nothing spends log2 V bits on each token that stands for text", async () => {
  const before = memory().liveBytes;
  const seed = key(1);
  const random = initParams(smallConfig, seed);
  const params = treeMap((p) => zeros(p.shape, p.dtype), random);
  disposeTree(random);
  // Tokens 0 to 7 are control tokens, the others stand for 3 bytes each.
  const lengths = Array.from({ length: 16 }, (_, id) => (id < 8 ? 0 : 3));
  const result = await bitsPerByte(params, smallConfig, counting(), lengths, size);
  expect(result).toMatchObject({ tokens: 16, bytes: 48 });
  expect(result.bitsPerByte).toBeCloseTo(4 / 3, 5);
  const text = new Corpus(Int32Array.of(8, 9, 1), Float64Array.of(0, 3));
  const rows = await bitsPerByte(params, smallConfig, new PackedRows(text, 1), lengths, size);
  // 32 targets, of which each third is a control token.
  expect(rows.bytes).toBe(3 * rows.tokens);
  expect(Math.abs(rows.tokens - (32 * 2) / 3)).toBeLessThan(1);
  await expect(bitsPerByte(params, smallConfig, counting(), [], size)).rejects.toThrow("no target");
  disposeTree([params, seed]);
  expect(memory().liveBytes).toBe(before);
});
