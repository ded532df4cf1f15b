import { describe, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

async function bench(...argv: string[]) {
  const io = fakeIo();
  const code = await runCli(["bench", ...argv], io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

describe("dsv3 bench", () => {
  it("measures products, memory, decoding and training", async () => {
    const { code, out } = await bench("--preset", "tiny", "--seconds", "0.01", "--json");
    expect(code).toBe(0);
    const { product, memory, decoding, training, parameters } = JSON.parse(out);
    for (const rate of [product.flops, memory.bytes, training.tokens, training.share]) {
      expect(rate).toBeGreaterThan(0);
    }
    expect(parameters.activePerToken).toBeLessThan(parameters.total);
    expect(decoding.map((d: { weights: string }) => d.weights)).toEqual(["f32", "bf16", "i8"]);
    for (const { tokens, share } of decoding) {
      expect(tokens).toBeGreaterThan(1);
      expect(share).toBeGreaterThan(0);
    }
  });

  it("refuses what no memory holds, before it takes any", async () => {
    const { code, err } = await bench("--preset", "deepseek-v3-671b", "--backend", "wasm");
    expect(code).toBe(2);
    expect(err).toMatch(/deepseek-v3-671b takes 2\.5 TiB in f32.*smaller --preset/s);
  });

  it("takes a preset or a model, not both", async () => {
    const { code, err } = await bench("--preset", "tiny", "--model", "x");
    expect(code).toBe(2);
    expect(err).toContain("--preset and --model are both given");
  });
});
