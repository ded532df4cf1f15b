import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { parquetWriteBuffer } from "hyparquet-writer";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { splitLines } from "./lines.ts";
import { type DataProblem, readSamples } from "./read.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-data-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function put(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, content);
  return path;
}

async function read(patterns: string[], options = {}) {
  const samples = [];
  for await (const sample of readSamples(patterns, options)) samples.push(sample);
  return samples;
}

/** Samples of a file, and what was passed over. */
async function survey(path: string, options = {}) {
  const problems: DataProblem[] = [];
  const samples = await read([path], {
    ...options,
    onProblem: (p: DataProblem) => problems.push(p),
  });
  return { samples, problems };
}

/** The three lines of the first test, compressed by xz 5.4. */
const XZ = Buffer.from(
  "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4AA8AC9dAD2IioaUiBPg84lKecGcnliBfxUvLSOVBC4w+fepR3soqiGi1yzfHMhBtL/MtXAAAADoMHfz2ZnOnQABSz30b2NrH7bzfQEAAAAABFla",
  "base64",
);

const GREEDY_XZ = Buffer.from(
  "/Td6WFoAAATm1rRGAgAhASUAAAA7eHtBAQAMeyJ0ZXh0IjoieCJ9CgAAAAAouCdV+Z3vagABJQ1xGcS2H7bzfQEAAAAABFla",
  "base64",
);

describe("readSamples", () => {
  const lines = '{"text":"one"}\n\n{"text":"two","source":"s"}\r\n{"text":"three"}';
  const texts = ["one", "two", "three"];

  it.each([
    ["a.jsonl", lines],
    ["a.jsonl.gz", gzipSync(lines)],
    ["a.jsonl.zst", zstdCompressSync(lines)],
    ["a.jsonl.xz", XZ],
    ["padded.jsonl.xz", Buffer.concat([XZ, Buffer.alloc(4)])],
  ])("reads the lines of %s", async (name, content) => {
    const path = await put(name, content);
    const samples = await read([path]);
    expect(samples.map((sample) => "text" in sample && sample.text)).toEqual(texts);
    expect(samples[1]).toEqual({ text: "two", source: "s", file: path, line: 3 });
  });

  it("reads tables, lists and whole texts, from folders and patterns, each file once", async () => {
    const below = join(folder, "tree", "deep");
    await mkdir(below, { recursive: true });
    const table = parquetWriteBuffer({
      columnData: [{ name: "text", data: ["p0", "p1", "p2"] }],
      rowGroupSize: 2,
    });
    await put("tree/b.parquet", new Uint8Array(table));
    await put("tree/c.json", '[{"text":"j0"},{"text":"j1"}]');
    await put("tree/deep/a.txt", "\ufeffa whole\ntext");
    await put("tree/ignored.png", "x");
    const tree = join(folder, "tree");
    const samples = await read([tree, join(tree, "*.json"), join(tree, "c.json")]);
    expect(samples.map((sample) => ("text" in sample ? sample.text : ""))).toEqual([
      "p0",
      "p1",
      "p2",
      "j0",
      "j1",
      "a whole\ntext",
    ]);
    expect(samples.map(({ line }) => line)).toEqual([1, 2, 3, 1, 2, 1]);
  });

  it("says file and line of each problem, and goes on", async () => {
    const bad = Buffer.concat([
      Buffer.from(
        '{"text":"good"}\n{"text":\n{"messages":[{"role":"wizard","content":"x"}]}\n{"text":"',
      ),
      Buffer.from([0xc3, 0x28]),
      Buffer.from(`"}\n{"text":"${"x".repeat(300)}"}\n{"text":"last"}\n`),
    ]);
    const path = await put("bad.jsonl", bad);
    const { samples, problems } = await survey(path, { maxBytes: 200 });
    expect(samples.map((sample) => "text" in sample && sample.text)).toEqual(["good", "last"]);
    expect(problems.map(({ line }) => line)).toEqual([2, 3, 4, 5]);
    expect(problems.map(({ message }) => message)).toEqual([
      expect.stringContaining("not valid JSON"),
      expect.stringContaining('unknown role "wizard"'),
      "not valid UTF-8",
      "the line has 311 bytes, more than the limit of 200",
    ]);
    await expect(read([path])).rejects.toThrow(`${path}:2: not valid JSON`);
  });

  it.each([
    ["empty.jsonl", "", "the file is empty"],
    ["empty.txt", "", "the file is empty"],
    ["utf16.jsonl", Buffer.from('\ufeff{"text":"x"}', "utf16le"), "UTF-16"],
    ["latin1.txt", Buffer.from("perch\xe9", "latin1"), "not valid UTF-8"],
    ["cut.jsonl.gz", gzipSync(lines).subarray(0, 30), "unexpected end of file"],
    ["cut.jsonl.zst", zstdCompressSync(lines.repeat(99)).subarray(0, 40), ""],
    ["not.jsonl.gz", "plain", "incorrect header"],
    ["not.jsonl.xz", "plain", ""],
    ["cut.jsonl.xz", XZ.subarray(0, XZ.length - 12), "the xz stream is truncated"],
    ["damaged.jsonl.xz", XZ.map((byte, i) => (i === 40 ? byte ^ 1 : byte)), ""],
    ["not.parquet", "plain text", ""],
    ["not.json", '[{"text":"x"', "ends within record 1"],
  ])("reports %s", async (name, content, message) => {
    const path = await put(name, content);
    const { problems } = await survey(path);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatchObject({ file: path, message: expect.stringContaining(message) });
    await expect(read([path])).rejects.toThrow(path);
  });

  it("stops at what grows without bounds when decompressed", async () => {
    const bomb = await put("bomb.jsonl.zst", zstdCompressSync(Buffer.alloc(2 ** 27, "x")));
    const { samples, problems } = await survey(bomb);
    expect(samples).toEqual([]);
    expect(problems).toEqual([
      { file: bomb, message: expect.stringContaining("grows more than 1000 times") },
    ]);
    // An xz stream of 13 bytes that asks for a dictionary of 1.5 GiB (xz --lzma2=dict=1536MiB).
    const greedy = await put("greedy.jsonl.xz", GREEDY_XZ);
    expect((await survey(greedy)).problems).toEqual([
      { file: greedy, message: expect.stringContaining("dictionary larger than 64 MiB") },
    ]);
  });

  it("reads a text, a line and a list that are larger than the limit in parts", async () => {
    const lines = Array.from({ length: 50 }, (_, i) => `line ${i} of a long text`);
    const text = await put("long.txt", lines.join("\n"));
    const { samples, problems } = await survey(text, { maxBytes: 200 });
    expect(samples.map((sample) => ("text" in sample ? sample.text : "")).join("")).toBe(
      lines.join("\n"),
    );
    expect(samples.length).toBeGreaterThan(5);
    expect(problems).toEqual([]);
    const list = await put("long.json", JSON.stringify(lines.map((line) => ({ text: line }))));
    expect((await survey(list, { maxBytes: 200 })).samples).toHaveLength(50);
  });

  it("refuses patterns without files and unknown formats", async () => {
    await expect(read([join(folder, "none.jsonl")])).rejects.toThrow("no such file or folder");
    await expect(read([join(folder, "*.parquet.gz")])).rejects.toThrow("no file that can be read");
    await expect(read([await put("x.docx", "x")])).rejects.toThrow("unknown format");
  });

  it("refuses one text larger than the limit", async () => {
    const path = await put("large.txt", "x".repeat(1000));
    await expect(read([path], { maxBytes: 999 })).rejects.toThrow("limit of 999 bytes");
  });
});

describe("splitLines", () => {
  it("gives the same lines for any cut of the stream", async () => {
    const collect = async (parts: Uint8Array[]) => {
      const found = [];
      for await (const lines of splitLines(stream(parts), 40)) found.push(...lines);
      return found;
    };
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.string({ unit: "binary", maxLength: 20 }), { maxLength: 8 }),
        fc.array(fc.nat(60), { maxLength: 6 }),
        async (lines, cuts) => {
          const bytes = Buffer.from(lines.join("\n"));
          const at = [
            ...new Set([0, ...cuts.map((c) => c % (bytes.length + 1)), bytes.length]),
          ].sort((a, b) => a - b);
          const parts = at.slice(1).map((end, i) => bytes.subarray(at[i], end));
          expect(await collect(parts)).toEqual(await collect([bytes]));
        },
      ),
      { numRuns: 50 },
    );
  });
});

async function* stream(parts: Uint8Array[]): AsyncGenerator<Uint8Array> {
  // A reader may overwrite its buffer after each part.
  for (const part of parts) {
    const buffer = Uint8Array.from(part);
    yield buffer;
    buffer.fill(0);
  }
}
