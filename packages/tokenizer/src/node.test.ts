import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EncoderPool, loadTokenizer, saveTokenizer } from "./node.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { trainBpe } from "./train.ts";

let scratch: string;
let tokenizer: Tokenizer;
const TEXT = "the cat sat on the mat; perché no? 你好 😀\n".repeat(30);
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "dsv3-tokenizer-"));
  tokenizer = trainBpe([TEXT], { vocabSize: 340 });
});
afterAll(() => rm(scratch, { recursive: true }));

describe("folders", () => {
  test("what is saved loads as the same tokenizer, and nothing else is left", async () => {
    const folder = join(scratch, "new", "deep");
    await saveTokenizer(tokenizer, folder);
    await saveTokenizer(tokenizer, folder); // over itself
    expect((await readdir(folder)).sort()).toEqual(["tokenizer.json", "tokenizer_config.json"]);
    const again = await loadTokenizer(folder);
    expect(again.toJSON()).toEqual(tokenizer.toJSON());
    expect(again.config).toEqual(tokenizer.config);
    expect(again.encode(TEXT, { addSpecial: true })).toEqual(
      tokenizer.encode(TEXT, { addSpecial: true }),
    );
  });

  test("a folder without tokenizer_config.json loads", async () => {
    const folder = join(scratch, "plain");
    await saveTokenizer(tokenizer, folder);
    await rm(join(folder, "tokenizer_config.json"));
    expect((await loadTokenizer(folder)).config).toEqual({});
  });

  test("broken files are refused with their name and the place", async () => {
    await expect(loadTokenizer(join(scratch, "none"))).rejects.toThrow(/none.tokenizer\.json/);
    const folder = join(scratch, "broken");
    await saveTokenizer(tokenizer, folder);
    const whole = await readFile(join(folder, "tokenizer.json"), "utf8");
    await writeFile(join(folder, "tokenizer.json"), whole.slice(0, whole.length / 2));
    await expect(loadTokenizer(folder)).rejects.toThrow(/broken: tokenizer\.json:\d+:\d+: /);
    await saveTokenizer(tokenizer, folder);
    for (const [text, message] of [
      ['{"add_bos_token": tru', /tokenizer_config\.json: /],
      ["[]", /tokenizer_config\.json: expected an object/],
      ['{"bos_token": "<nobody>"}', /bos_token "<nobody>"/],
    ] as const) {
      await writeFile(join(folder, "tokenizer_config.json"), text);
      await expect(loadTokenizer(folder)).rejects.toThrow(message);
    }
  });

  test("a folder that cannot be made or filled is named, and not left behind", async () => {
    const file = join(scratch, "file");
    await writeFile(file, "");
    await expect(saveTokenizer(tokenizer, join(file, "deep"))).rejects.toThrow(
      /cannot write the tokenizer to .*deep/,
    );
    const made = join(scratch, "made");
    // No name is that long.
    const pid = Object.getOwnPropertyDescriptor(process, "pid")!;
    Object.defineProperty(process, "pid", { value: "9".repeat(300), configurable: true });
    try {
      await expect(saveTokenizer(tokenizer, join(made, "deep"))).rejects.toThrow(/ENAMETOOLONG/);
    } finally {
      Object.defineProperty(process, "pid", pid);
    }
    expect(await readdir(scratch)).not.toContain("made");
  });

  test("where a file cannot be written, no part of it stays", async () => {
    const folder = join(scratch, "blocked");
    await mkdir(join(folder, "tokenizer.json"), { recursive: true }); // a folder is in the way
    await expect(saveTokenizer(tokenizer, folder)).rejects.toThrow(/tokenizer\.json/);
    expect(await readdir(folder)).toEqual(["tokenizer.json"]);
  });
});

describe("EncoderPool", () => {
  test("gives the ids that one thread gives, in order, for several batches at once", async () => {
    await using pool = new EncoderPool(tokenizer, { threads: 2 });
    const batch = (seed: number) =>
      Array.from({ length: 40 }, (_, i) => `${seed}/${i} `.repeat((i % 5) * 4000) + TEXT);
    const options = { addSpecial: true };
    const batches = [batch(1), batch(2), [], [""]];
    const results = await Promise.all(batches.map((texts) => pool.encodeBatch(texts, options)));
    for (const [b, texts] of batches.entries()) {
      expect(results[b]).toHaveLength(texts.length);
      for (const [i, text] of texts.entries()) {
        expect(results[b]![i]!.join() === tokenizer.encode(text, options).join()).toBe(true);
      }
    }
  });

  test("an error in a thread is the caller's, and the pool goes on", async () => {
    await using pool = new EncoderPool(tokenizer, { threads: 1 });
    await expect(pool.encodeBatch([7 as unknown as string])).rejects.toThrow(
      "expected a string or a Uint8Array, got number",
    );
    expect((await pool.encodeBatch(["the cat"]))[0]).toEqual(tokenizer.encode("the cat"));
  });

  test("closed, and with no threads, it says so", async () => {
    expect(() => new EncoderPool(tokenizer, { threads: 0 })).toThrow(/threads 0/);
    const pool = new EncoderPool(tokenizer, { threads: 1 });
    const pending = pool.encodeBatch([TEXT.repeat(100)]);
    const failed = expect(pending).rejects.toThrow(/ended|closed/);
    await pool.close();
    await failed;
    await expect(pool.encodeBatch(["x"])).rejects.toThrow(/closed/);
  });
});
