import { cp, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

const base = join(import.meta.dirname, "../../../../packages/model/src/__fixtures__/base");

let temporary: string;
beforeEach(async () => {
  temporary = await mkdtemp(join(tmpdir(), "dsv3-convert-"));
});
afterEach(() => rm(temporary, { recursive: true }));

async function run(...argv: string[]) {
  const io = fakeIo();
  const code = await runCli(argv, io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

it("writes half the bytes in bf16, in files of the size asked, and leaves the training behind", async () => {
  const from = join(temporary, "checkpoint");
  await cp(base, from, { recursive: true });
  await writeFile(join(from, "optimizer.bin"), new Uint8Array(1000));
  await writeFile(join(from, "training-state.json"), "{}");
  await writeFile(join(from, "notes.txt"), "kept");
  const out = join(temporary, "small");
  const args = ["convert", "--model", from, "--out", out, "--shard-megabytes", "1", "--json"];
  const { code, out: printed } = await run(...args);
  expect(code).toBe(0);
  const files = await readdir(out);
  expect(files).toContain("notes.txt");
  expect(files).not.toContain("optimizer.bin");
  expect(files).not.toContain("training-state.json");
  const wide = JSON.parse((await run("inspect", "--model", from, "--json")).out);
  const narrow = JSON.parse((await run("inspect", "--model", out, "--json")).out);
  expect(narrow.parameters).toEqual(wide.parameters);
  const { bytes, tensors } = JSON.parse(printed);
  // Correction biases stay in f32.
  expect(bytes).toBeGreaterThanOrEqual(2 * narrow.parameters.total);
  expect(bytes).toBeLessThan(2.1 * narrow.parameters.total);
  expect(tensors).toBeGreaterThan(10);
});

it("refuses what is there, what is missing and what is cut off, and leaves nothing behind", async () => {
  const exists = await run("convert", "--model", base, "--out", temporary);
  expect(exists.code).not.toBe(0);
  expect(exists.err).toContain("exists already");
  const missing = await run("convert", "--out", join(temporary, "x"));
  expect(missing.code).toBe(2);
  expect(missing.err).toContain("--model is missing");
  const from = join(temporary, "cut");
  await cp(base, from, { recursive: true });
  const file = join(from, "model.safetensors");
  await truncate(file, (await readFile(file)).length - 8);
  const cut = await run("convert", "--model", from, "--out", join(temporary, "y"));
  expect(cut.code).not.toBe(0);
  expect(cut.err).toContain("model.safetensors");
  expect(await readdir(temporary)).toEqual(["cut"]);
});
