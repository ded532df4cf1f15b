import { cp, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

const fixtures = join(import.meta.dirname, "../../../../packages/model/src/__fixtures__");

let temporary: string;
beforeEach(async () => {
  temporary = await mkdtemp(join(tmpdir(), "dsv3-inspect-"));
});
afterEach(() => rm(temporary, { recursive: true }));

async function inspect(...argv: string[]) {
  const io = fakeIo();
  const code = await runCli(["inspect", ...argv], io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

async function copyOf(fixture: string): Promise<string> {
  const dir = join(temporary, fixture);
  await cp(join(fixtures, fixture), dir, { recursive: true });
  return dir;
}

describe("of a preset", () => {
  it("counts DeepSeek-V3 exactly", async () => {
    const { code, out } = await inspect("--preset", "deepseek-v3-671b", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({
      name: "deepseek-v3-671b",
      modelType: "deepseek_v3",
      parameters: { total: 671_026_419_200, totalWithMtp: 684_489_845_504 },
      bytesByDtype: { bf16: 2 * 684_489_845_504, f32: 4 * 684_489_845_504 },
      cacheBytesPerToken: { bf16: 61 * 576 * 2, f32: 61 * 576 * 4 },
      config: { hiddenSize: 7168, nRoutedExperts: 256 },
    });
  });

  it("prints tables for people", async () => {
    const { code, out } = await inspect("--preset", "deepseek-v3-671b");
    expect(code).toBe(0);
    expect(out).toMatch(/^deepseek-v3-671b \(deepseek_v3\)\n/);
    expect(out).toMatch(/parameters +671,026,419,200 +671\.0B\n/);
    expect(out).toMatch(/with MTP and its copies +684,489,845,504 +684\.5B\n/);
    expect(out).toMatch(/cache bytes per token in bf16 +70,272 +68\.6 KiB\n/);
    expect(out).toMatch(/experts: visited of routed +8 of 256\n/);
  });
});

it("of a size: DeepSeek-V3's shape scaled, and its recipe", async () => {
  const { code, out } = await inspect("--size", "2");
  expect(code).toBe(0);
  expect(out).toMatch(/^size 2 \(deepseek_v3\)\n/);
  expect(out).toMatch(/hidden size +256\n/);
  expect(out).toMatch(/learning rate at its peak +0\.00362\n/);
  const { recipe, parameters } = JSON.parse((await inspect("--size", "2", "--json")).out);
  expect(recipe.tokens).toBe(20 * parameters.activePerTokenWithoutEmbedding);
});

describe("of a folder", () => {
  it.each(["base", "mtp", "fp8"])("%s: bytes as they are stored", async (name) => {
    const dir = join(fixtures, name);
    const { code, out } = await inspect("--model", dir, "--json");
    expect(code).toBe(0);
    const { bytesByDtype, config } = JSON.parse(out);
    let stored = 0;
    for (const name of await readdir(dir)) {
      if (!name.startsWith("model") || !name.endsWith(".safetensors")) continue;
      const file = await readFile(join(dir, name));
      stored += file.length - 8 - Number(file.readBigUInt64LE(0)); // all but the header
    }
    const bytes = Object.values<number>(bytesByDtype).reduce((a, b) => a + b, 0);
    expect(bytes).toBe(stored);
    expect("f8e4m3" in bytesByDtype).toBe(name === "fp8");
    expect(config.numNextnPredictLayers).toBe(name === "mtp" ? 1 : 0);
  });

  it("counts the parameters that are there", async () => {
    const { out } = await inspect("--model", join(fixtures, "base"), "--json");
    const { parameters, bytesByDtype } = JSON.parse(out);
    expect(bytesByDtype).toEqual({ f32: 4 * parameters.total });
    expect(parameters.totalWithMtp).toBe(parameters.total);
    expect(parameters.activePerToken).toBeLessThan(parameters.total);
  });

  it("says what is wrong with it", async () => {
    const missing = join(temporary, "nothing");
    expect(await inspect("--model", missing)).toMatchObject({
      code: 1,
      out: "",
      err: expect.stringContaining(missing),
    });

    const noConfig = await copyOf("base");
    await rm(join(noConfig, "config.json"));
    expect(await inspect("--model", noConfig)).toMatchObject({
      code: 1,
      err: expect.stringContaining("config.json: is not there"),
    });

    const cut = await copyOf("mtp");
    await truncate(join(cut, "model.safetensors"), 5000);
    const result = await inspect("--model", cut);
    expect(result.code).toBe(1);
    expect(result.err).toContain("model.safetensors");
  });

  it.each([
    [
      "num_hidden_layers",
      1,
      /tensor "model\.layers\.\d+\.\S+": is missing.*config\.json asks for it/,
    ],
    [
      "vocab_size",
      1,
      /model\.safetensors: tensor "model\.embed_tokens\.weight": has shape \[\d+, \d+\], but/,
    ],
  ])("refuses tensors that are not those of config.json (%s)", async (field, more, message) => {
    const dir = await copyOf("base");
    const config = JSON.parse(await readFile(join(dir, "config.json"), "utf8"));
    config[field] += more;
    await writeFile(join(dir, "config.json"), JSON.stringify(config));
    const { code, out, err } = await inspect("--model", dir);
    expect({ code, out }).toEqual({ code: 1, out: "" });
    expect(err).toMatch(message);
  });
});

it.each([
  [[], "give --model DIR, --preset NAME or --size N"],
  [["--model", "m", "--preset", "tiny"], "give one of them"],
  [["--size", "3", "--preset", "tiny"], "give one of them"],
  [["--size", "0"], "at least 1"],
  [["--preset", "huge"], "must be one of tiny, demo"],
])("wrong command line %j", async (argv, message) => {
  expect(await inspect(...argv)).toMatchObject({
    code: 2,
    out: "",
    err: expect.stringContaining(message),
  });
});
