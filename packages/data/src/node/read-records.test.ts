import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parquetWriteBuffer } from "hyparquet-writer";
import { afterAll, beforeAll, expect, it } from "vitest";
import { readRecords } from "./read.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-records-"));
});
afterAll(() => rm(dir, { recursive: true }));

async function records(name: string, content: string | Uint8Array) {
  const path = join(dir, name);
  await writeFile(path, content);
  const found = [];
  for await (const { value, file, line } of readRecords([path])) {
    expect(file).toBe(path);
    found.push([line, value]);
  }
  return found;
}

it("gives records as they stand, whatever their fields", async () => {
  expect(await records("a.jsonl", '{"goal": "g", "label": 1}\n\n[2]\n')).toEqual([
    [1, { goal: "g", label: 1 }],
    [3, [2]],
  ]);
  expect(await records("a.json", '[{"x": null}, 3]')).toEqual([
    [1, { x: null }],
    [2, 3],
  ]);
  const table = parquetWriteBuffer({
    columnData: [
      { name: "text", data: ["one", "two"], type: "STRING" },
      { name: "label", data: [0n, 1n], type: "INT64" },
    ],
  });
  expect(await records("a.parquet", new Uint8Array(table))).toEqual([
    [1, { text: "one", label: 0n }],
    [2, { text: "two", label: 1n }],
  ]);
});

it("stops at the first that is damaged, with its line", async () => {
  await expect(records("bad.jsonl", '{"a": 1}\n{"a": ')).rejects.toThrow(/bad\.jsonl:2: not valid/);
});
