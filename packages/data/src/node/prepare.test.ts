import { appendFile, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { MixedRows } from "../mixture.ts";
import { PackedRows } from "../packing.ts";
import { randomStream } from "../random.ts";
import { type PrepareOptions, prepareShards } from "./prepare.ts";
import { openShards, type TokenShards, verifyShards } from "./shards.ts";

let folder: string;
let tokenizer: Tokenizer;
const words = ["sea", "ship", "whale", "perché", "white", "calm", "and", "the", "😀", "storm"];
const documents = (n: number, seed: number) => {
  const random = randomStream(seed);
  const word = () => words[Math.floor(random() * words.length)];
  return Array.from({ length: n }, () =>
    Array.from({ length: 3 + Math.floor(random() * 30) }, word).join(" "),
  );
};
const [first, second] = [documents(120, 1), documents(40, 2)];

async function put(name: string, texts: readonly string[]): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, texts.map((text) => JSON.stringify({ text })).join("\n"));
  return path;
}

let a: string;
let b: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-shards-"));
  tokenizer = trainBpe(first, { vocabSize: 320 });
  a = await put("a.jsonl", first);
  b = await put("b.jsonl", second);
});
afterAll(() => rm(folder, { recursive: true }));

const options = (extra: Partial<PrepareOptions> = {}): PrepareOptions => ({
  sources: [{ paths: [a], weight: 1 }],
  tokenizer,
  threads: 1,
  shardTokens: 300,
  ...extra,
});

function tokensOf(corpus: TokenShards, document: number): Int32Array {
  const tokens = new Int32Array(corpus.sizeOf(document));
  corpus.read(document, 0, tokens);
  return tokens;
}

async function contents(path: string): Promise<Record<string, string>> {
  const names = (await readdir(path)).sort();
  const files = await Promise.all(names.map((name) => readFile(join(path, name), "base64")));
  return Object.fromEntries(names.map((name, i) => [name, files[i] as string]));
}

describe("prepareShards", () => {
  it("keeps every document, in order, over several shards", async () => {
    const out = join(folder, "plain");
    const manifest = await prepareShards(out, options());
    const opened = await openShards(out);
    const { corpus } = opened.sources[0] as { corpus: TokenShards };
    expect(opened.manifest).toEqual(manifest);
    expect(manifest.tokenBytes).toBe(2);
    expect(manifest.sources[0]?.shards.length).toBeGreaterThan(3);
    expect(corpus.documents).toBe(120);
    const { bos, eos } = tokenizer.special;
    for (const [d, text] of first.entries()) {
      expect([...tokensOf(corpus, d)]).toEqual([bos, ...tokenizer.encode(text), eos]);
    }
    expect(corpus.size).toBe(manifest.sources[0]?.tokens);
    expect((await loadTokenizer(out)).toJSON()).toEqual(tokenizer.toJSON());
    await verifyShards(out);
    opened.close();
    await expect(prepareShards(out, options())).rejects.toThrow("exists already");
  });

  it("keeps ids of large vocabularies in four bytes", async () => {
    const large = new Proxy(tokenizer, {
      get: (target, key) => {
        const value = Reflect.get(target, key, target);
        if (typeof value === "function") return value.bind(target);
        return key === "vocabSize" ? 70_000 : value;
      },
    });
    const out = join(folder, "wide");
    expect(await prepareShards(out, options({ tokenizer: large }))).toMatchObject({
      tokenBytes: 4,
    });
    const opened = await openShards(out);
    const narrow = await openShards(join(folder, "plain"));
    const rows = (of: typeof opened) =>
      new PackedRows(of.sources[0]?.corpus as TokenShards, 3).next(9, 50);
    expect(rows(opened)).toEqual(rows(narrow));
    opened.close();
    narrow.close();
  });

  it("rewrites its share of documents for filling in the middle", async () => {
    const many = await put("many.jsonl", documents(800, 5));
    const out = join(folder, "fim");
    const manifest = await prepareShards(
      out,
      options({ sources: [{ paths: [many], weight: 1 }], fimRate: 0.1, seed: 7 }),
    );
    const { fimDocuments } = manifest.sources[0] as { fimDocuments: number };
    expect(Math.abs(fimDocuments / 800 - 0.1)).toBeLessThan(0.03);
    const opened = await openShards(out);
    const { corpus } = opened.sources[0] as { corpus: TokenShards };
    const texts = documents(800, 5);
    const { fimBegin, fimHole, fimEnd } = tokenizer.special;
    let found = 0;
    for (let d = 0; d < corpus.documents; d++) {
      const ids = [...tokensOf(corpus, d)].slice(1, -1);
      if (ids[0] !== fimBegin) continue;
      found++;
      const [hole, end] = [ids.indexOf(fimHole as number), ids.indexOf(fimEnd as number)];
      const parts = [ids.slice(1, hole), ids.slice(end + 1), ids.slice(hole + 1, end)];
      expect(parts.map((part) => tokenizer.decode(part)).join("")).toBe(texts[d]);
    }
    expect(found).toBe(fimDocuments);
    opened.close();
  });

  it("goes on after it was stopped, to the same bytes", { timeout: 30_000 }, async () => {
    const sources = [
      { paths: [a], weight: 3 },
      { paths: [b], weight: 1 },
    ];
    const extra = { sources, fimRate: 0.3, duplicates: {} };
    await prepareShards(join(folder, "whole"), options(extra));
    const out = join(folder, "stopped");
    const stopping = options({
      ...extra,
      onProgress: ({ documents, read, size }) => {
        expect(read).toBeLessThanOrEqual(size);
        if (documents > 0) throw new Error("stopped here");
      },
    });
    await expect(prepareShards(out, stopping)).rejects.toThrow("stopped here");
    const left = await readdir(`${out}.unfinished`);
    const whole = await readdir(join(folder, "whole"));
    const ofFirst = (names: string[]) => names.filter((name) => name.startsWith("0-")).length;
    expect(ofFirst(left)).toBeGreaterThan(3);
    expect(ofFirst(left)).toBeLessThan(ofFirst(whole));
    // As if the power had gone while a shard was written.
    await writeFile(join(`${out}.unfinished`, "0-99999.tokens.partial"), "half");
    const other = options({ ...extra, seed: 9 });
    await expect(prepareShards(out, other)).rejects.toThrow("begun with other options");
    await prepareShards(out, options({ ...extra, threads: 2 }));
    expect(await contents(out)).toEqual(await contents(join(folder, "whole")));
    expect(await readdir(folder)).not.toContain("stopped.unfinished");
  });

  it("notices texts that changed in the meantime", async () => {
    const changing = await put("changing.jsonl", first);
    const extra = { sources: [{ paths: [changing], weight: 1 }] };
    const out = join(folder, "changed");
    const stop = new AbortController();
    stop.abort();
    const stopped = prepareShards(out, options({ ...extra, signal: stop.signal }));
    await expect(stopped).rejects.toThrow("aborted");
    // Nothing was made of them yet.
    await appendFile(changing, '\n{"text":"more"}');
    const onProgress = ({ documents }: { documents: number }) => {
      if (documents > 0) throw new Error("stopped here");
    };
    await expect(prepareShards(out, options({ ...extra, onProgress }))).rejects.toThrow("here");
    await appendFile(changing, '\n{"text":"more"}');
    await expect(prepareShards(out, options(extra))).rejects.toThrow("texts have changed since");
  });

  it("counts what it leaves out, file by file", async () => {
    const c = join(folder, "c.jsonl");
    const chat = { messages: [{ role: "user", content: "hi" }] };
    const lines = [
      { text: first[0] },
      { text: "" },
      chat,
      { text: `${first[1]}!` },
      { text: "new" },
    ];
    await writeFile(c, `${lines.map((line) => JSON.stringify(line)).join("\n")}\n{"text":`);
    const problems: string[] = [];
    const manifest = await prepareShards(
      join(folder, "counted"),
      options({
        sources: [{ paths: [a, c], weight: 1 }],
        duplicates: { near: 0.8 },
        onProblem: ({ line, message }) => problems.push(`${line}: ${message}`),
      }),
    );
    expect(manifest.sources[0]?.files).toEqual([
      { file: a, documents: 120, empty: 0, exactDuplicates: 0, nearDuplicates: 0, problems: 0 },
      { file: c, documents: 1, empty: 1, exactDuplicates: 1, nearDuplicates: 1, problems: 2 },
    ]);
    expect(problems).toEqual([
      "3: a conversation, but pre-training takes texts",
      expect.stringContaining("6: not valid JSON"),
    ]);
    const strict = prepareShards(
      join(folder, "strict"),
      options({ sources: [{ paths: [c], weight: 1 }] }),
    );
    await expect(strict).rejects.toThrow(`${c}:3: a conversation`);
  });

  it("refuses what cannot be prepared", async () => {
    const out = join(folder, "refused");
    const refused = (extra: Partial<PrepareOptions>) =>
      expect(prepareShards(out, options(extra))).rejects;
    await refused({ sources: [] }).toThrow("one source at least");
    await refused({ sources: [{ paths: [a], weight: 0 }] }).toThrow("positive number, is 0");
    const empty = await put("empty.jsonl", ["", ""]);
    await refused({ sources: [{ paths: [empty], weight: 1 }] }).toThrow("no text is left of");
  });
});

describe("openShards", () => {
  it("gives a mixture that resumes exactly, from another opening", async () => {
    const opened = await openShards(join(folder, "whole"));
    expect(opened.sources.map(({ weight }) => weight)).toEqual([3, 1]);
    const rows = new MixedRows(opened.sources, 4);
    rows.next(33, 20);
    const position = JSON.parse(JSON.stringify(rows.position));
    const expected = rows.next(40, 20);
    opened.close();
    const again = await openShards(join(folder, "whole"));
    const resumed = new MixedRows(again.sources, 4);
    resumed.seek(position);
    expect(resumed.next(40, 20)).toEqual(expected);
    again.close();
  });

  it("refuses documents and tokens that are not there", async () => {
    const opened = await openShards(join(folder, "plain"));
    const { corpus } = opened.sources[0] as { corpus: TokenShards };
    expect(() => corpus.sizeOf(120)).toThrow("documents 0 to 119, not 120");
    expect(() => corpus.sizeOf(-1)).toThrow(RangeError);
    const size = corpus.sizeOf(5);
    expect(() => corpus.read(5, 1, new Int32Array(size))).toThrow(`has ${size} tokens`);
    opened.close();
  });

  it("reports folders that are damaged", async () => {
    const out = join(folder, "damaged");
    const manifest = await prepareShards(out, options());
    const shard = join(out, "0-00001.tokens");
    const original = await readFile(shard);
    await expect(openShards(folder)).rejects.toThrow("no folder of prepared data");

    // A flipped bit among the tokens is found by its hash, and among the starts by reading, too.
    await writeFile(shard, original.with(original.length - 1, 0xff));
    (await openShards(out)).close();
    await expect(verifyShards(out)).rejects.toThrow(`${shard} is damaged`);
    await writeFile(shard, original.with(32 + 14, 0xff));
    const opened = await openShards(out);
    const { corpus } = opened.sources[0] as { corpus: TokenShards };
    const inSecond = manifest.sources[0]?.shards[0]?.documents as number;
    expect(() => corpus.sizeOf(inSecond)).toThrow(`${shard} is damaged: document 0`);
    opened.close();

    await writeFile(shard, original);
    await truncate(shard, original.length - 1);
    await expect(openShards(out)).rejects.toThrow(`has ${original.length - 1} bytes and should`);
    await writeFile(shard, "short");
    await expect(openShards(out)).rejects.toThrow("cut short");
    await writeFile(shard, original.with(0, 0));
    await expect(openShards(out)).rejects.toThrow("no file of tokens");
    await writeFile(shard, original.with(16, 99));
    await expect(openShards(out)).rejects.toThrow("does not belong to its manifest");
    await rm(shard);
    await expect(openShards(out)).rejects.toThrow("0-00001.tokens");
  });

  it.each([
    ["{", "damaged"],
    ["null", "format is undefined"],
    ['{"format":"x"}', 'format is "x"'],
    ['{"format":"dsv3-tokens-1","tokenBytes":3}', "tokenBytes"],
    ['{"format":"dsv3-tokens-1","tokenBytes":2}', "vocabSize"],
    ['{"format":"dsv3-tokens-1","tokenBytes":2,"vocabSize":9,"sources":[]}', "sources"],
    [
      '{"format":"dsv3-tokens-1","tokenBytes":2,"vocabSize":9,"sources":[null]}',
      "sources[0].weight",
    ],
    ['{"format":"dsv3-tokens-1","tokenBytes":2,"vocabSize":9,"sources":[{"weight":1}]}', "shards"],
    [
      '{"format":"dsv3-tokens-1","tokenBytes":2,"vocabSize":9,"sources":[{"weight":1,"shards":[{"file":"../x","documents":1,"tokens":1,"sha256":""}]}]}',
      "sources[0].shards[0]",
    ],
  ])("refuses the manifest %s", async (text, message) => {
    const out = await mkdtemp(join(folder, "manifest-"));
    await writeFile(join(out, "manifest.json"), text);
    await expect(openShards(out)).rejects.toThrow(message);
  });
});
