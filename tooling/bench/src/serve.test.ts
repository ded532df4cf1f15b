import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { formatRows } from "./part.ts";
import { formatContenders, rowsOf } from "./serve.ts";
import { llamaOfSize, parameterCount, writeLlama } from "./serve-gguf.ts";
import { type LoadResult, load, loadAll } from "./serve-load.ts";

test("a llama model is as large as was asked, and its file as GGUF has it", () => {
  const sizes = llamaOfSize(60_000, { vocab: 300, hidden: 32, layers: 2, heads: 4, context: 64 });
  expect(Math.abs(parameterCount(sizes) - 60_000)).toBeLessThan(3 * 32 * 32 * 2);
  const folder = mkdtempSync(join(tmpdir(), "dsv3-bench-"));
  try {
    writeLlama(join(folder, "m.gguf"), sizes);
    const file = readFileSync(join(folder, "m.gguf"));
    expect(file.subarray(0, 4).toString()).toBe("GGUF");
    expect(file.readUint32LE(4)).toBe(3);
    expect(file.readBigUInt64LE(8)).toBe(BigInt(3 + 2 * 9)); // tensors
    expect(file.length % 32).toBe(0);
    const head = file.length - 4 * parameterCount(sizes); // every tensor is a multiple of 32 bytes
    const gain = file.indexOf("blk.0.attn_norm.weight");
    expect(gain).toBeLessThan(head);
    const name = gain + "blk.0.attn_norm.weight".length;
    expect(file.readUint32LE(name)).toBe(1); // dimensions
    expect(file.readBigUInt64LE(name + 4)).toBe(32n);
    const offset = Number(file.readBigUInt64LE(name + 16));
    expect(file.readFloatLE(head + offset)).toBe(1); // norms begin as ones
    expect(Math.abs(file.readFloatLE(head))).toBeLessThan(0.04);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("a load counts tokens and the time between them; the best round counts", async () => {
  async function* answer(prompt: number[], maxTokens: number) {
    expect(new Set(prompt).size).toBeGreaterThan(1);
    for (let i = 0; i < maxTokens; i++) yield await new Promise((resolve) => setTimeout(resolve));
  }
  const result = await load(answer, 3, 1000);
  expect(result.streams).toBe(3);
  expect(result.tokensPerSecond).toBeGreaterThan(0);
  expect(result.between).toBeLessThanOrEqual(result.between95);
  const counts: number[] = [];
  const answerFor = (streams: number) => {
    counts.push(streams);
    return answer;
  };
  const all = await loadAll(answerFor, [1, 64], 1000);
  expect(all.map(({ streams }) => streams)).toEqual([1, 64]);
  expect(counts).toEqual([1, 64, 1, 1]);
});

test("tables tell what was measured, and rows what was expected", () => {
  const at = (streams: number, tokensPerSecond: number): LoadResult => {
    return { streams, tokensPerSecond, firstToken: 1, between: 2, between95: 3 };
  };
  expect(
    formatContenders([{ name: "x", loads: [at(1, 10), at(16, 50)] }]).split("\n"),
  ).toHaveLength(3);
  const contexts = [
    { tokens: 128, between: 10 },
    { tokens: 4096, between: 14 },
  ];
  const overhead = { streams: 16, lost: 10, between: [4, 12] } as const;
  const rows = rowsOf([at(1, 10), at(16, 50)], contexts, { cold: 100, hit: 10 }, overhead);
  const text = formatRows(rows);
  expect(text).toMatch(/16 streams beside one, while all decode +16 × +at least 4 × +met/);
  expect(text).toMatch(/with their prompts +5 ×/);
  expect(text).toMatch(/the last beside the first +1\.4 × +at most 1\.5 × +met/);
  expect(text).toMatch(/times sooner +10 × +at least 5 × +met/);
  expect(text).toMatch(/tokens\/s lost, median +10 % +at most 5 % +MISSED/);
});
