import { expect, test } from "vitest";
import { cacheBytesPerToken, countParameters, flopsPerToken } from "./count.ts";
import { denseVariant, PRESETS, preset } from "./presets.ts";

// Section "Exact counts" of the official README_WEIGHTS.md, and its formulas worked out.
test("DeepSeek-V3 counts its parameters to the last one", () => {
  expect(countParameters(PRESETS["deepseek-v3-671b"])).toEqual({
    total: 671_026_419_200,
    active: 37_552_297_472,
    activeWithoutEmbedding: 36_625_618_432,
    mtp: 11_610_068_224,
    stored: 684_489_845_504,
  });
});

test("DeepSeek-V2-Lite has no correction bias and no query latent", () => {
  const count = countParameters(PRESETS["deepseek-v2-lite-16b"]);
  expect(count.total).toBe(15_706_484_224);
  expect(count.stored).toBe(count.total);
  expect(count.mtp).toBe(0);
});

test("the latent cache takes 70,272 bytes a token", () => {
  expect(cacheBytesPerToken(PRESETS["deepseek-v3-671b"])).toBe(70_272);
  expect(cacheBytesPerToken(PRESETS["deepseek-v3-671b"], "f32")).toBe(140_544);
});

test("model FLOPs are twice the weights that a token meets, plus attention", () => {
  const v3 = PRESETS["deepseek-v3-671b"];
  const { activeWithoutEmbedding } = countParameters(v3);
  // Vectors are no matrix products: per layer two norms and two latent norms, the last norm, biases.
  const vectors = 61 * (2 * 7168 + 1536 + 512) + 7168 + 58 * 256;
  const forward = flopsPerToken(v3, { context: 0 });
  expect(forward).toBe(2 * (activeWithoutEmbedding - vectors));
  expect(flopsPerToken(v3, { context: 100 }) - forward).toBe(2 * 100 * 61 * 128 * (192 + 128));
  expect(flopsPerToken(v3, { context: 0, training: true })).toBe(3 * forward);
  // MTP: one attention, one MoE layer, eh_proj and the head once more.
  const mla = 187_107_328 - 1536 - 512;
  const moe = 9 * 44_040_192 + 256 * 7168;
  const mtp = 2 * (mla + moe + 2 * 7168 ** 2 + 129280 * 7168);
  expect(flopsPerToken(v3, { context: 0, mtp: true }) - forward).toBe(mtp);
});

test.each(["tiny", "demo", "deepseek-v3-671b"])("the dense variant of %s is as active", (name) => {
  const routed = preset(name);
  const dense = denseVariant(routed);
  const [a, b] = [countParameters(routed), countParameters(dense)];
  expect(b.total).toBe(b.active);
  expect(Math.abs(b.active / a.active - 1)).toBeLessThan(0.001);
});

test("an unknown preset lists the known ones", () => {
  expect(() => preset("huge")).toThrow('no preset "huge"; there are tiny, demo, deepseek-v3-671b');
  expect(() => preset("constructor")).toThrow("no preset");
});
