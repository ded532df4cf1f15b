import { expect, test } from "vitest";
import { checkConfig } from "./config.ts";
import { countParameters } from "./count.ts";
import { preset } from "./presets.ts";
import { sizedConfig } from "./size.ts";

test("size 56 is DeepSeek-V3, before its context is extended", () => {
  const { initializerRange, ...sized } = sizedConfig(56, 129280);
  const { initializerRange: _, ...full } = preset("deepseek-v3-671b");
  expect(sized).toEqual({ ...full, ropeScaling: null, maxPositionEmbeddings: 4096 });
  expect(initializerRange).toBeCloseTo(0.006, 12); // section 4.2; config.json says 0.02
});

test("every size is a model, and larger than the one before", () => {
  let before = 0;
  for (let size = 1; size <= 60; size++) {
    const config = checkConfig(sizedConfig(size, 4096));
    const { active } = countParameters(config);
    expect(active, `size ${size}`).toBeGreaterThan(before);
    before = active;
    const dense = config.firstKDenseReplace;
    expect(dense >= 1 && dense < config.numHiddenLayers, `size ${size}`).toBe(true);
    // Kernels like widths of whole vectors.
    for (const width of [config.vHeadDim, config.kvLoraRank, config.moeIntermediateSize]) {
      expect(width % 32, `size ${size}`).toBe(0);
    }
  }
});

test.each([0, -1, 1.5, Number.NaN, 1e9])("%d is no size", (size) => {
  expect(() => sizedConfig(size)).toThrow(`a size is a whole number from 1 to 1024, got ${size}`);
});
