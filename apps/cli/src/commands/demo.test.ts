import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { demoTexts, passages } from "../demo/texts.ts";
import { fakeIo } from "../testing.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-demo-"));
});
afterAll(() => rm(dir, { recursive: true }));

it("trains both models for a few steps, measures, saves and writes samples", async () => {
  const io = fakeIo();
  const out = join(dir, "demo");
  const argv = ["demo", "--steps", "3", "--compare-dense", "--out", out, "--json"];
  expect(await runCli(argv, io, commands, "0.0.0")).toBe(0);
  const result = JSON.parse(io.stdout.text);
  expect(result.models.map((m: { name: string }) => m.name)).toEqual([
    "mixture of experts",
    "dense",
  ]);
  const [moe, dense] = result.models;
  expect(Math.abs(moe.active / dense.active - 1)).toBeLessThan(0.002);
  for (const { tokens, steps, bitsPerByte } of result.models) {
    expect({ tokens, steps }).toEqual({ tokens: 3 * 512, steps: 3 });
    // Knowing nothing of 4096 tokens of 4 bytes is 3 bits a byte.
    expect(bitsPerByte).toBeGreaterThan(2);
    expect(bitsPerByte).toBeLessThan(3.2);
  }
  expect(result.samples).toHaveLength(3);
  expect(await readdir(out)).toEqual(["dense", "model", "moe"]);
  const files = await readdir(result.model);
  for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
    expect(files).toContain(name);
  }
  const config = JSON.parse(await readFile(join(result.model, "config.json"), "utf8"));
  expect(config).toMatchObject({ architectures: ["DeepseekV3ForCausalLM"], vocab_size: 4096 });

  const again = fakeIo();
  expect(await runCli(argv, again, commands, "0.0.0")).toBe(1);
  expect(again.stderr.text).toContain("exists already; give another --out");
}, 240_000);

it("no held-out passage is learnt from, and passages lose nothing but space between them", () => {
  const { train, heldOut } = demoTexts();
  const learnt = new Set(train);
  expect(heldOut.length).toBeGreaterThan(200);
  expect(heldOut.filter((text) => learnt.has(text))).toEqual([]);
  const bare = (text: string) => text.replace(/\s/g, "");
  const work = "One. Two! “Three?” four\nfive. ".repeat(200);
  const parts = passages(work);
  expect(parts.length).toBeGreaterThan(2);
  expect(bare(parts.join(""))).toBe(bare(work));
  expect(passages("")).toEqual([]);
});
