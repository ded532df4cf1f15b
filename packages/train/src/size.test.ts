import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { countParameters, sizedConfig } from "@dsv3/model";
import { expect, test } from "vitest";
import { sizedRecipe } from "./size.ts";

test("the report's budget by the published laws: close to what it used", () => {
  const { batch, length, learningRate } = sizedRecipe(56, 14.8e12);
  expect(length).toBe(4096);
  expect((batch * length) / 62.9e6).toBeGreaterThan(0.4);
  expect((batch * length) / 62.9e6).toBeLessThan(2.5);
  expect(learningRate / 2.2e-4).toBeGreaterThan(0.8);
  expect(learningRate / 2.2e-4).toBeLessThan(1.3);
});

test("the README's table is what the rules give", async () => {
  const readme = await readFile(join(import.meta.dirname, "../README.md"), "utf8");
  const millions = (n: number) => `${(n / 1e6).toFixed(n < 1e8 ? 1 : 0)}M`;
  for (let size = 1; size <= 12; size++) {
    const c = sizedConfig(size);
    const { total, active } = countParameters(c);
    const r = sizedRecipe(size);
    const row = [
      ...[size, c.hiddenSize, c.numHiddenLayers, `${c.numAttentionHeads} × ${c.vHeadDim}`],
      ...[`${c.qLoraRank} / ${c.kvLoraRank}`, `${c.numExpertsPerTok} of ${c.nRoutedExperts}`],
      ...[c.moeIntermediateSize, millions(total), millions(active), millions(r.tokens)],
      ...[`${r.batch} × ${r.length}`, r.learningRate],
    ];
    expect(readme.replace(/ +/g, " ")).toContain(`| ${row.join(" | ")} |`);
  }
});
