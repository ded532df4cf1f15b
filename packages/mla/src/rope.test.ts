import { setBackend } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, expect, test } from "vitest";
import { type RopeConfig, ropeTables, softmaxScale, yarnFrequencies } from "./rope.ts";

beforeAll(() => setBackend(referenceBackend()));

const v3: RopeConfig = {
  qkNopeHeadDim: 128,
  qkRopeHeadDim: 64,
  ropeTheta: 10000,
  ropeScaling: {
    factor: 40,
    originalMaxPositionEmbeddings: 4096,
    betaFast: 32,
    betaSlow: 1,
    mscale: 1,
    mscaleAllDim: 1,
  },
  ropeInterleave: true,
};
const plain: RopeConfig = { ...v3, ropeScaling: null };

test("without YaRN, pair i turns θ^(−2i/R) a position", () => {
  const f = yarnFrequencies(plain);
  expect(f).toHaveLength(32);
  expect(f[0]).toBe(1);
  expect(f[16]).toBeCloseTo(0.01, 15);
});

// DeepSeek-V3: the ramp runs from pair 10 to pair 23.
test("YaRN keeps fast pairs, slows slow ones by the factor, and mixes between", () => {
  const f = yarnFrequencies(v3);
  const base = yarnFrequencies(plain);
  const ratio = [...f].map((x, i) => x / base[i]!);
  expect(ratio.slice(0, 11)).toEqual(new Array(11).fill(1));
  for (const r of ratio.slice(23)) expect(r).toBeCloseTo(1 / 40, 14);
  expect(ratio[11]).toBeCloseTo(1 - (1 / 13) * (1 - 1 / 40), 14);
  expect(ratio[17]).toBeCloseTo(1 - (7 / 13) * (1 - 1 / 40), 14);
});

test("the softmax scale has mscale² exactly once", () => {
  expect(softmaxScale(plain)).toBeCloseTo(0.0721687836, 10);
  expect(softmaxScale(v3)).toBeCloseTo(0.1352337789, 10);
  const lite = { ...v3, ropeScaling: { ...v3.ropeScaling!, mscale: 0.7, mscaleAllDim: 0.7 } };
  expect(softmaxScale(lite)).toBeCloseTo(192 ** -0.5 * (0.07 * Math.log(40) + 1) ** 2, 12);
  const none = { ...v3, ropeScaling: { ...v3.ropeScaling!, mscaleAllDim: 0 } };
  expect(softmaxScale(none)).toBe(softmaxScale(plain));
});

test("tables are exact far out, and of length 1 where the two mscales agree", async () => {
  const { cos, sin } = ropeTables(v3, 150_000);
  const [c, s] = [await cos.data(), await sin.data()];
  const f = yarnFrequencies(v3);
  for (const [t, i] of [
    [149_999, 0],
    [149_999, 5],
    [77_777, 31],
  ] as const) {
    expect(c[t * 32 + i]).toBe(Math.fround(Math.cos(t * f[i]!)));
    expect(s[t * 32 + i]).toBe(Math.fround(Math.sin(t * f[i]!)));
  }
  const stretched = { ...v3, ropeScaling: { ...v3.ropeScaling!, mscaleAllDim: 0 } };
  const first = (await ropeTables(stretched, 1).cos.data())[0];
  expect(first).toBeCloseTo(0.1 * Math.log(40) + 1, 6);
});
