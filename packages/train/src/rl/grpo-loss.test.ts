import { setBackend, type Tensor, tensor, valueAndGrad } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, describe, expect, test } from "vitest";
import {
  GRPO_FORMS,
  type GrpoForm,
  type GrpoTerms,
  groupAdvantages,
  grpoLoss,
  outputWeights,
} from "./grpo-loss.ts";

beforeAll(() => setBackend(referenceBackend()));

/**
 * Two outputs: o_1 of two tokens with A = 1, o_2 of one token with A = −2; ε = 0.2 below and 0.3
 * above, L_max = 4. What stands in masked places must not matter.
 */
const NOISE = -0.7;
const lengths = [2, 1];
const A = [1, -2];
const options = { clipLow: 0.2, clipHigh: 0.3 };
const grid = (a: number, b: number, c: number) => [
  [NOISE, a, b],
  [NOISE, c, NOISE],
];
/** Log-probabilities of o_11, o_12 and o_21. */
type Three = readonly [number, number, number];
type Case = { logProbs: Three; old: Three; ref?: Three; beta: number };

const placed = (values: Three) => tensor(grid(...values));
function terms({ logProbs, old, ref }: Case, form: GrpoForm): GrpoTerms {
  const mask = tensor([
    [0, 1, 1],
    [0, 1, 0],
  ]);
  return {
    ...{ logProbs: placed(logProbs), oldLogProbs: placed(old), mask },
    ...(ref ? { refLogProbs: placed(ref) } : {}),
    ...{ advantages: tensor(A), weights: tensor(outputWeights(form, lengths, 4)) },
  };
}
async function lossAndGradient(c: Case, form: GrpoForm) {
  const { logProbs, ...fixed } = terms(c, form);
  const loss = (t: Tensor) =>
    grpoLoss({ ...fixed, logProbs: t }, { form, beta: c.beta, ...options });
  const [[value, parts], gradient] = valueAndGrad(loss)(logProbs);
  const [x0, x1, x2, y0, y1, y2] = await gradient.data();
  close([x0, y0, y2], [0, 0, 0]);
  const clipped = [await parts.clippedLow.item(), await parts.clippedHigh.item()];
  return { value: await value.item(), gradient: [x1, x2, y1], clipped, kl: await parts.kl.item() };
}
const close = (got: readonly unknown[], expected: readonly number[]) => {
  expect(got).toHaveLength(expected.length);
  expected.forEach((e, i) => {
    expect(got[i], `at ${i}`).toBeCloseTo(e, 5);
  });
};

/**
 * dL/d log π_it = −w_i A_i ρ (· 1/|o_i| for gspo) where the unit is not clipped, and 0 where it is;
 * plus w_i β (1 − e^d) of the KL, since d(e^d − d − 1)/d log π = 1 − e^d.
 */
describe("on-policy: every ratio is 1, and the gradient is −w A", () => {
  const at: Three = [-1, -2, -0.5];
  const c: Case = { logProbs: at, old: at, beta: 0 };
  test.each<[GrpoForm, number, Three]>([
    // w = 1/2: L = −(1/2)(1 − 2) = 1/2; each token of o_1 has −(1/2)·1, o_2 has +(1/2)·2.
    ["deepseek-v3", 0.5, [-0.5, -0.5, 1]],
    // w = 1/4, 1/2: L = −(1/4)(1 + 1) + (1/2)·2.
    ["deepseek-math", 0.5, [-0.25, -0.25, 1]],
    // w = 1/3: L = −(1/3)(1 + 1 − 2) = 0, though the gradient is not 0.
    ["dapo", 0, [-1 / 3, -1 / 3, 2 / 3]],
    // w = 1/(2·4): L = −(1/8)(1 + 1 − 2).
    ["dr-grpo", 0, [-0.125, -0.125, 0.25]],
    // w = 1/2, and the mean log-ratio gives 1/|o| more: −(1/2)·1·(1/2), and (1/2)·2·1.
    ["gspo", 0.5, [-0.25, -0.25, 1]],
  ])("%s", async (form, loss, gradient) => {
    const found = await lossAndGradient(c, form);
    expect(found.value).toBeCloseTo(loss, 6);
    close(found.gradient, gradient);
    expect(found.clipped).toEqual([0, 0]);
  });
});

describe("off-policy: ratios 1.2, 1.5 of o_1 (A = 1) and 0.5 of o_2 (A = −2)", () => {
  const [r1, r2, r3] = [1.2, 1.5, 0.5];
  const old: Three = [-1, -2, -0.5];
  const logProbs: Three = [-1 + Math.log(r1), -2 + Math.log(r2), -0.5 + Math.log(r3)];
  test.each<[GrpoForm, number, Three, number[]]>([
    // ρ_1 = 1.8 > 1.3 with A > 0: clipped, 1.3. ρ_2 = 0.5 < 0.8 with A < 0: min(−1, −1.6), clipped.
    ["deepseek-v3", -0.5 * (1.3 - 1.6), [0, 0, 0], [1, 1]],
    // 1.2 stays, 1.5 becomes 1.3, 0.5 becomes 0.8: only o_11 has a gradient, −w·1.2.
    ["deepseek-math", -(1.2 + 1.3) / 4 + 1.6 / 2, [-0.3, 0, 0], [1, 1]],
    ["dapo", -(1.2 + 1.3 - 1.6) / 3, [-0.4, 0, 0], [1, 1]],
    ["dr-grpo", -(1.2 + 1.3 - 1.6) / 8, [-0.15, 0, 0], [1, 1]],
    // s_1 = √1.8 = 1.3416 > 1.3, clipped; s_2 = 0.5, clipped.
    ["gspo", -0.5 * (1.3 - 1.6), [0, 0, 0], [1, 1]],
  ])("%s", async (form, loss, gradient, clipped) => {
    const found = await lossAndGradient({ logProbs, old, beta: 0 }, form);
    expect(found.value).toBeCloseTo(loss, 5);
    close(found.gradient, gradient);
    expect(found.clipped).toEqual(clipped);
  });
});

describe("off-policy on the side that is not clipped: ratios 0.5, 0.9 (A = 1) and 2 (A = −2)", () => {
  const old: Three = [-1, -2, -0.5];
  const logProbs: Three = [-1 + Math.log(0.5), -2 + Math.log(0.9), -0.5 + Math.log(2)];
  const root = Math.sqrt(0.45);
  test.each<[GrpoForm, Three]>([
    // The min takes what is not clipped: ρ_1 = 0.45, ρ_2 = 2; −(1/2)·0.45, and (1/2)·2·2.
    ["deepseek-v3", [-0.225, -0.225, 2]],
    ["deepseek-math", [-0.125, -0.225, 2]],
    ["dapo", [-0.5 / 3, -0.3, 4 / 3]],
    ["dr-grpo", [-0.0625, -0.1125, 0.5]],
    ["gspo", [-root / 4, -root / 4, 2]],
  ])("%s", async (form, gradient) => {
    const found = await lossAndGradient({ logProbs, old, beta: 0 }, form);
    close(found.gradient, gradient);
    expect(found.clipped).toEqual([0, 0]);
  });
});

describe("the KL to the reference alone: e^d is 2, 0.5 for o_1 and 4 for o_2; β = 0.1, A = 0", () => {
  const logProbs: Three = [-1, -2, -0.5];
  const ref: Three = [-1 + Math.log(2), -2 + Math.log(0.5), -0.5 + Math.log(4)];
  const k3 = (x: number) => x - Math.log(x) - 1;
  test.each<[GrpoForm, number, Three]>([
    // Of whole outputs: e^d_1 = 1, no divergence and no gradient; o_2: w β (1 − 4) = −0.15.
    ["deepseek-v3", 0.05 * k3(4), [0, 0, -0.15]],
    ["deepseek-math", 0.025 * (k3(2) + k3(0.5)) + 0.05 * k3(4), [-0.025, 0.0125, -0.15]],
    ["dapo", (0.1 / 3) * (k3(2) + k3(0.5) + k3(4)), [-0.1 / 3, 0.05 / 3, -0.1]],
    ["dr-grpo", 0.0125 * (k3(2) + k3(0.5) + k3(4)), [-0.0125, 0.00625, -0.0375]],
    ["gspo", 0.025 * (k3(2) + k3(0.5)) + 0.05 * k3(4), [-0.025, 0.0125, -0.15]],
  ])("%s", async (form, loss, gradient) => {
    const c: Case = { logProbs, old: logProbs, ref, beta: 0.1 };
    const { logProbs: at, ...fixed } = terms(c, form);
    const noAdvantage = { ...fixed, advantages: tensor([0, 0]) };
    const run = (t: Tensor) =>
      grpoLoss({ ...noAdvantage, logProbs: t }, { form, beta: 0.1, ...options });
    const [[value, parts], g] = valueAndGrad(run)(at);
    const rows = await g.data();
    expect(await value.item()).toBeCloseTo(loss, 5);
    close([rows[1], rows[2], rows[4]], gradient);
    expect(await parts.kl.item()).toBeCloseTo(k3(2) + k3(0.5) + k3(4), 5);
  });
});

test.each(GRPO_FORMS)("%s: central differences, away from the corners", async (form) => {
  const c: Case = {
    ...{ logProbs: [-1.1, -1.9, -0.55], old: [-1, -2, -0.5], ref: [-1.3, -1.8, -0.9] },
    beta: 0.2,
  };
  const { gradient } = await lossAndGradient(c, form);
  const h = 1e-2;
  for (let i = 0; i < 3; i++) {
    const moved = (by: number): Case => ({
      ...c,
      logProbs: c.logProbs.map((v, j) => v + (i === j ? by : 0)) as unknown as Three,
    });
    const up = (await lossAndGradient(moved(h), form)).value;
    const down = (await lossAndGradient(moved(-h), form)).value;
    expect(gradient[i]).toBeCloseTo((up - down) / (2 * h), 3);
  }
});

test("advantages: rewards 1, 0, 0, 1 have mean 1/2 and unbiased deviation √(1/3)", () => {
  const a = 0.5 / (Math.sqrt(1 / 3) + 1e-4);
  close(groupAdvantages("deepseek-v3", [1, 0, 0, 1]), [a, -a, -a, a]);
  close(groupAdvantages("dr-grpo", [1, 0, 0, 1]), [0.5, -0.5, -0.5, 0.5]);
  for (const form of GRPO_FORMS) expect(groupAdvantages(form, [1, 1])).toEqual([0, 0]);
  expect(groupAdvantages("dapo", [3])).toEqual([0]);
});

test("outputs that do not count weigh nothing, and their tokens are not counted", () => {
  expect(outputWeights("dapo", [3, 0, 1], 8)).toEqual([0.25, 0, 0.25]);
  expect(outputWeights("deepseek-math", [2, 0], 8)).toEqual([0.25, 0]);
  expect(outputWeights("dr-grpo", [2, 0], 8)).toEqual([1 / 16, 0]);
  expect(outputWeights("gspo", [0, 0], 8)).toEqual([0, 0]);
});

test("beta without a reference is refused", () => {
  const c: Case = { logProbs: [-1, -2, -3], old: [-1, -2, -3], beta: 0.1 };
  expect(() => grpoLoss(terms(c, "dapo"), { form: "dapo", beta: 0.1, ...options })).toThrow(
    "refLogProbs",
  );
});
