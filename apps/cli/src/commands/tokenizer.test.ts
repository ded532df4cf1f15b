import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { gzipSync } from "node:zlib";
import { trainBpe } from "@dsv3/tokenizer";
import { loadTokenizer, saveTokenizer } from "@dsv3/tokenizer/node";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo, fakeSink } from "../testing.ts";

const TEXT = "ciao ciao mondo, ciao mondo 你\n";
const tokenizer = trainBpe([TEXT], { vocabSize: 300 });

let folder: string;
let dir: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-tokenizer-"));
  dir = join(folder, "tokenizer");
  await saveTokenizer(tokenizer, dir);
});
afterAll(() => rm(folder, { recursive: true }));

interface Setting {
  stdin?: string | Uint8Array;
  columns?: number;
  env?: Record<string, string>;
}

async function run(argv: string[], { stdin, columns, env = {} }: Setting = {}) {
  const pipe = stdin === undefined ? undefined : inHalves(Buffer.from(stdin));
  const io = { ...fakeIo(env), stdout: fakeSink(columns), stdin: pipe };
  const code = await runCli(["tokenizer", ...argv], io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

/** As a pipe gives it, cut in the middle of a character. */
async function* inHalves(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes.subarray(0, bytes.length - 2);
  yield bytes.subarray(bytes.length - 2);
}

const ids = (text: string) => Array.from(tokenizer.encode(text));

describe("tokenizer encode", () => {
  it("prints ids in a pipe", async () => {
    const result = await run(["encode", "--tokenizer", dir], { stdin: TEXT });
    expect(result).toEqual({ code: 0, out: `${ids(TEXT).join(" ")}\n`, err: "" });
  });

  it("takes the text as an argument, and control tokens only when asked", async () => {
    const text = "<｜User｜>ciao";
    const plain = await run(["encode", "--tokenizer", dir, text]);
    expect(plain.out).toBe(`${ids(text).join(" ")}\n`);
    const special = await run(["encode", "--tokenizer", dir, "--special", "--bos", text]);
    const { bos, user } = tokenizer.special;
    expect(special.out).toBe(`${[bos, user, ...ids("ciao")].join(" ")}\n`);
  });

  it("prints JSON with each token's text", async () => {
    const { out } = await run(["encode", "--tokenizer", dir, "--json", "a\n你"]);
    expect(JSON.parse(out)).toEqual({
      ids: ids("a\n你"),
      tokens: ["a", "⏎", ...(ids("你").length === 1 ? ["你"] : ["\\xE4", "\\xBD", "\\xA0"])],
      bytes: 5,
    });
  });

  it("shows borders in colours in a terminal, and by bars without colours", async () => {
    const text = "ciao mondo\nx";
    const coloured = await run(["encode", "--tokenizer", dir, text], { columns: 80 });
    const [first, second, last] = stripVTControlCharacters(coloured.out).split("\n");
    expect([first, second, last]).toEqual(["ciao mondo⏎", "x", ids(text).join(" ")]);
    expect(coloured.out).toContain("\u001b[44m");
    expect(coloured.out).toContain("\u001b[45m");
    expect(coloured.err).toBe(
      `${ids(text).length} tokens, 12 bytes, ${(12 / ids(text).length).toFixed(2)} bytes a token\n`,
    );

    const bare = await run(["encode", "--tokenizer", dir, "ciao mondo"], {
      columns: 80,
      env: { NO_COLOR: "1" },
    });
    expect(bare.out).toBe(`ciao│ mondo\n${ids("ciao mondo").join(" ")}\n`);
  });

  it("says what is wrong", async () => {
    expect(await run(["encode", "--tokenizer", dir])).toMatchObject({
      code: 2,
      err: expect.stringContaining("pipe it in"),
    });
    expect(await run(["encode", "x"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("--tokenizer is missing"),
    });
    const invalid = await run(["encode", "--tokenizer", dir], { stdin: new Uint8Array([97, 255]) });
    expect(invalid).toMatchObject({ code: 1, err: expect.stringContaining("0xff at offset 1") });
    const missing = await run(["encode", "--tokenizer", join(folder, "none"), "x"]);
    expect(missing).toMatchObject({ code: 1, out: "", err: expect.stringContaining("none") });
  });
});

describe("tokenizer decode", () => {
  it("gives the text back exactly, whichever way the ids are written", async () => {
    for (const list of [
      ids(TEXT).join(" "),
      `${ids(TEXT).join(",\n")}\n`,
      JSON.stringify(ids(TEXT)),
    ]) {
      const { code, out } = await run(["decode", "--tokenizer", dir], { stdin: list });
      expect({ code, out }).toEqual({ code: 0, out: TEXT });
    }
  });

  it("ends the line in a terminal, skips control tokens, prints JSON", async () => {
    const list = [tokenizer.specialId("user"), ...ids("ciao")].join(" ");
    const shown = await run(["decode", "--tokenizer", dir, list], { columns: 80 });
    expect(shown.out).toBe("<｜User｜>ciao\n");
    const { out } = await run(["decode", "--tokenizer", dir, "--skip-special", "--json", list]);
    expect(JSON.parse(out)).toEqual({ text: "ciao" });
  });

  it("names what is no id, and ids outside the vocabulary", async () => {
    const word = await run(["decode", "--tokenizer", dir, "1 2 x3"]);
    expect(word).toMatchObject({
      code: 1,
      out: "",
      err: expect.stringContaining('"x3" at position 2'),
    });
    const outside = await run(["decode", "--tokenizer", dir, "30 9999"]);
    expect(outside).toMatchObject({ code: 1, out: "", err: expect.stringContaining("9999") });
  });
});

describe("tokenizer train", () => {
  it("writes what trainBpe learns from a folder of texts", async () => {
    const corpus = join(folder, "corpus");
    await mkdir(corpus);
    await writeFile(join(corpus, "a.txt"), TEXT);
    await writeFile(
      join(corpus, "b.jsonl"),
      `${JSON.stringify({ text: "mondo ciao" })}\n\n{"text":"x"}`,
    );
    await writeFile(join(corpus, "c.png"), "not a text");
    await writeFile(join(corpus, "c.txt.gz"), gzipSync("ciao mondo, ciao"));
    const out = join(folder, "trained");
    const argv = ["train", "--text", corpus, "--vocab-size", "285", "--out", out];
    const result = await run([...argv, "--json"]);
    expect(JSON.parse(result.out)).toEqual({ out, vocabSize: 285, texts: 4 });
    const expected = trainBpe([TEXT, "mondo ciao", "x", "ciao mondo, ciao"], { vocabSize: 285 });
    expect((await loadTokenizer(out)).toJSON()).toEqual(expected.toJSON());

    expect(await run(argv)).toMatchObject({ code: 1, err: expect.stringContaining("--overwrite") });
    const again = await run([...argv.slice(0, 4), "9999", ...argv.slice(5), "--overwrite"]);
    expect(again).toMatchObject({ code: 0, err: expect.stringContaining("no more pairs") });
  });

  it("stops at Ctrl-C, and has written nothing", async () => {
    const out = join(folder, "interrupted");
    const text = join(folder, "words.txt");
    await writeFile(text, Array.from({ length: 3000 }, (_, i) => `w${i * 7919}`).join(" "));
    const io = fakeIo();
    const write = io.stderr.write;
    io.stderr.write = function (shown: string) {
      io.interrupt();
      write.call(this, shown);
    };
    const argv = ["tokenizer", "train", "--text", text, "--vocab-size", "3000", "--out", out];
    expect(await runCli(argv, io, commands, "0.0.0")).toBe(130);
    expect(io.stderr.text).not.toContain("no more pairs");
    expect(existsSync(out)).toBe(false);
  });

  it("refuses bad input before anything is written", async () => {
    const out = join(folder, "nothing");
    const bad = join(folder, "bad.jsonl");
    await writeFile(bad, '{"text":"x"}\n{"words":1}\n');
    const train = (text: string, size = "400") =>
      run(["train", "--text", text, "--vocab-size", size, "--out", out]);
    expect(await train(bad)).toMatchObject({
      code: 1,
      err: expect.stringContaining("bad.jsonl:2: "),
    });
    await writeFile(bad, '{"text":"x"}\n{"te');
    expect(await train(bad)).toMatchObject({
      code: 1,
      err: expect.stringContaining("bad.jsonl:2: "),
    });
    expect(await train(join(folder, "none"))).toMatchObject({ code: 1 });
    expect(await train(folder, "257")).toMatchObject({
      code: 1,
      err: expect.stringContaining("vocabSize 257"),
    });
    expect(await train(folder, "many")).toMatchObject({ code: 2 });
    expect(existsSync(out)).toBe(false);
  });
});

describe("tokenizer inspect", () => {
  it("shows sizes and roles", async () => {
    const { out } = await run(["inspect", "--tokenizer", dir, "--json"]);
    expect(JSON.parse(out)).toMatchObject({
      vocabSize: tokenizer.vocabSize,
      merges: tokenizer.vocabSize - tokenizer.addedTokens.length - 256,
      preTokenizer: "deepseek-v3",
      special: { bos: tokenizer.specialId("bos") },
    });
    const table = await run(["inspect", "--tokenizer", dir]);
    expect(table.out).toMatch(/toolSep +\d+ +<｜tool▁sep｜>/);
    expect(table.out).toMatch(new RegExp(`vocabSize +${tokenizer.vocabSize}`));
  });
});

describe("the group of commands", () => {
  it("has help for itself and for each", async () => {
    expect((await run(["--help"])).out).toMatch(/tokenizer encode .*\n.*tokenizer decode/);
    expect((await run(["encode", "--help"])).out).toContain(
      "Usage: dsv3 tokenizer encode [TEXT] --tokenizer DIR",
    );
    expect(await run([])).toMatchObject({
      code: 2,
      err: expect.stringContaining("what to do is missing: tokenizer encode, tokenizer decode"),
    });
    expect(await run(["encod"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("did you mean tokenizer encode?"),
    });
  });
});
