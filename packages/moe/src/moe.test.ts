import {
  add,
  cast,
  compile,
  key,
  maximum,
  mul,
  normal,
  setBackend,
  sub,
  sum,
  type Tensor,
  tensor,
  treeLeaves,
  treeMap,
  valueAndGrad,
} from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { initMoe, type MoeConfig, type MoeParams, moeParamShapes } from "./config.ts";
import { moe } from "./moe.ts";
import { balanceLoss, route, updateBias } from "./route.ts";

beforeAll(() => setBackend(referenceBackend()));

const v3: MoeConfig = {
  hiddenSize: 6,
  moeIntermediateSize: 5,
  nRoutedExperts: 8,
  nSharedExperts: 1,
  numExpertsPerTok: 3,
  nGroup: 4,
  topkGroup: 2,
  scoringFunc: "sigmoid",
  topkMethod: "noaux_tc",
  normTopkProb: true,
  routedScalingFactor: 2.5,
};
const v2: MoeConfig = {
  ...v3,
  nSharedExperts: 2,
  scoringFunc: "softmax",
  topkMethod: "group_limited_greedy",
  normTopkProb: false,
  routedScalingFactor: 16,
};
const v2Lite: MoeConfig = {
  ...v2,
  nGroup: 1,
  topkGroup: 1,
  topkMethod: "greedy",
  routedScalingFactor: 1,
};
const variants: [string, MoeConfig][] = [
  ["DeepSeek-V3", v3],
  ["DeepSeek-V3 without groups or shared experts", { ...v3, nGroup: 1, nSharedExperts: 0 }],
  ["DeepSeek-V2", v2],
  ["DeepSeek-V2-Lite", v2Lite],
];

function params(c: MoeConfig): MoeParams {
  const p = initMoe(c, key(4), 0.8);
  return p.eScoreCorrectionBias === null
    ? p
    : { ...p, eScoreCorrectionBias: mul(normal(key(5), [c.nRoutedExperts]), 0.3) };
}

type Plain<T> = T extends Tensor ? Float64Array : { [K in keyof T]: Plain<T[K]> };
const toPlain = (p: MoeParams) =>
  treeMap((t: Tensor) => Float64Array.from(t.dataSync()), p) as Plain<MoeParams>;

/** Indices of the k largest, equal ones by lower index. */
const best = (values: ArrayLike<number>, k: number) =>
  Array.from(values, (_, i) => i)
    .sort((a, b) => values[b]! - values[a]! || a - b)
    .slice(0, k);

/** The router's rules for one token, in float64: weight of each expert, 0 where not picked. */
function plainWeights(logits: number[], bias: Float64Array | null, c: MoeConfig): number[] {
  const exps = logits.map(Math.exp);
  const total = exps.reduce((a, b) => a + b, 0);
  const scores =
    c.scoringFunc === "softmax" ? exps.map((e) => e / total) : exps.map((e) => e / (1 + e));
  const choice = scores.map((s, e) => s + (bias?.[e] ?? 0));
  const size = c.nRoutedExperts / c.nGroup;
  const groups = Array.from({ length: c.nGroup }, (_, g) => choice.slice(g * size, (g + 1) * size));
  const ranks = groups.map((group) => {
    const sorted = group.toSorted((a, b) => b - a);
    return c.topkMethod === "noaux_tc" ? sorted[0]! + (sorted[1] ?? 0) : sorted[0]!;
  });
  const kept = best(ranks, c.topkMethod === "greedy" ? c.nGroup : c.topkGroup);
  const eligible = choice.map((s, e) => (kept.includes(Math.floor(e / size)) ? s : -Infinity));
  const picked = best(eligible, c.numExpertsPerTok);
  const norm = c.normTopkProb ? picked.reduce((s, e) => s + scores[e]!, 0) : 1;
  return scores.map((s, e) => (picked.includes(e) ? (s / norm) * c.routedScalingFactor : 0));
}

/** Every expert on every token, in float64. */
function denseMoeReference(p: Plain<MoeParams>, x: Float64Array, c: MoeConfig): number[] {
  const { hiddenSize: D, moeIntermediateSize: F, nRoutedExperts: E } = c;
  const apply = (w: Float64Array, v: ArrayLike<number>) =>
    Array.from({ length: w.length / v.length }, (_, o) =>
      Array.from(v).reduce((s, value, i) => s + value * w[o * v.length + i]!, 0),
    );
  const gated = (gate: Float64Array, up: Float64Array, down: Float64Array, v: Float64Array) => {
    const ups = apply(up, v);
    return apply(
      down,
      apply(gate, v).map((g, i) => (g / (1 + Math.exp(-g))) * ups[i]!),
    );
  };
  const result: number[] = [];
  for (let t = 0; t < x.length / D; t++) {
    const v = x.subarray(t * D, (t + 1) * D);
    const weights = plainWeights(apply(p.gate, v), p.eScoreCorrectionBias, c);
    const out = new Float64Array(D);
    const accumulate = (y: number[], weight: number) => {
      for (const [i, value] of y.entries()) out[i]! += weight * value;
    };
    for (let e = 0; e < E; e++) {
      const own = (w: Float64Array) => w.subarray(e * F * D, (e + 1) * F * D);
      const { gateProj, upProj, downProj } = p.experts;
      accumulate(gated(own(gateProj), own(upProj), own(downProj), v), weights[e]!);
    }
    const s = p.sharedExperts;
    if (s !== null) accumulate(gated(s.gateProj, s.upProj, s.downProj, v), 1);
    result.push(...out);
  }
  return result;
}

describe.each(variants)("%s", (_, c) => {
  const x = () => normal(key(6), [2, 7, c.hiddenSize]);

  test("equals every expert on every token", async () => {
    const p = params(c);
    const { output, load } = moe(p, x(), c);
    const expected = denseMoeReference(toPlain(p), Float64Array.from(await x().data()), c);
    const values = await output.data();
    for (const [i, y] of expected.entries()) expect(Math.abs(values[i]! - y)).toBeLessThan(1e-4);
    expect(await sum(load).item()).toBe(2 * 7 * c.numExpertsPerTok);
  });

  test("gradients are those of every expert on every token", async () => {
    const p = params(c);
    const weights = normal(key(7), [2, 7, c.hiddenSize]);
    const loss = (p: MoeParams, x: Tensor) => sum(mul(moe(p, x, c).output, weights));
    const [, [dp, dx]] = valueAndGrad(loss, { argnums: [0, 1] as const })(p, x());

    const plain = { p: toPlain(p), x: Float64Array.from(await x().data()) };
    const w = await weights.data();
    const plainLoss = () =>
      denseMoeReference(plain.p, plain.x, c).reduce((s, y, i) => s + y * w[i]!, 0);
    const check = async (values: Float64Array, gradient: Tensor, name: string) => {
      const g = await gradient.data();
      for (let i = 0; i < values.length; i += Math.max(1, Math.floor(values.length / 7))) {
        const [at, h] = [values[i]!, 1e-5];
        values[i] = at + h;
        const above = plainLoss();
        values[i] = at - h;
        const slope = (above - plainLoss()) / (2 * h);
        values[i] = at;
        expect(Math.abs(g[i]! - slope), `${name}[${i}]`).toBeLessThan(1e-3 * (1 + Math.abs(slope)));
      }
    };
    await check(plain.x, dx, "x");
    await check(plain.p.gate, dp.gate, "gate");
    for (const name of ["gateProj", "upProj", "downProj"] as const) {
      await check(plain.p.experts[name], dp.experts[name], `experts.${name}`);
      if (plain.p.sharedExperts && dp.sharedExperts) {
        await check(plain.p.sharedExperts[name], dp.sharedExperts[name], `shared.${name}`);
      }
    }
    if (dp.eScoreCorrectionBias !== null) {
      const bias = (await dp.eScoreCorrectionBias.data()) as Float32Array;
      expect(bias.every((g) => g === 0)).toBe(true);
    }
  });

  test("parameters have the shapes that moeParamShapes tells", () => {
    expect(treeMap((t: Tensor) => t.shape, params(c))).toEqual(moeParamShapes(c));
  });
});

describe("the router", () => {
  /** Logits exactly as given: one token, the router's matrix is the identity. */
  function routeLogits(logits: number[], bias: number[] | null, c: MoeConfig) {
    const E = logits.length;
    const identity = logits.map((_, i) => logits.map((_, j) => Number(i === j)));
    const p = { gate: tensor(identity), eScoreCorrectionBias: bias && tensor(bias) };
    const { experts, weights } = route(p as MoeParams, tensor([logits]), {
      ...c,
      hiddenSize: E,
      nRoutedExperts: E,
    });
    return {
      experts: [...(experts.dataSync() as Int32Array)],
      weights: [...(weights.dataSync() as Float32Array)],
    };
  }
  const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

  test("the bias picks but never weighs", () => {
    const c = { ...v3, numExpertsPerTok: 2, nGroup: 1, topkGroup: 1 };
    const { experts, weights } = routeLogits([2, 1, 0, -1], [0, -9, 0, 9], c);
    expect(experts).toEqual([3, 0]);
    const total = sigmoid(-1) + sigmoid(2);
    expect(weights[0]).toBeCloseTo((2.5 * sigmoid(-1)) / total, 6);
    expect(weights[1]).toBeCloseTo((2.5 * sigmoid(2)) / total, 6);
  });

  // With 0 in place of −∞ outside the groups, experts 0 and 1 would be picked.
  test("groups left out stay out when every biased score is negative", () => {
    const c = { ...v3, numExpertsPerTok: 2, nGroup: 2, topkGroup: 1 };
    const { experts } = routeLogits([0, 0, 1, 1], [-5, -5, -4, -4], c);
    expect(experts).toEqual([2, 3]);
  });

  test("groups rank by their two best experts, or by their best one in V2", () => {
    const logits = [3, -9, 1, 1];
    const c = { ...v3, numExpertsPerTok: 1, nGroup: 2, topkGroup: 1 };
    expect(routeLogits(logits, [0, 0, 0, 0], c).experts).toEqual([2]);
    const c2 = { ...v2, numExpertsPerTok: 1, nGroup: 2, topkGroup: 1 };
    expect(routeLogits(logits, null, c2).experts).toEqual([0]);
  });

  test("scores of 0 do not divide by 0", () => {
    const c = { ...v3, numExpertsPerTok: 2, nGroup: 1, topkGroup: 1 };
    expect(routeLogits([-200, -200, -200], [0, 0, 0], c).weights).toEqual([0, 0]);
  });

  test("any sizes and logits route as the rules say", () => {
    const cases = fc
      .record({
        nGroup: fc.integer({ min: 1, max: 4 }),
        groupSize: fc.integer({ min: 2, max: 4 }),
        sigmoid: fc.boolean(),
        norm: fc.boolean(),
        seed: fc.integer({ min: 0, max: 2 ** 31 }),
      })
      .chain((r) =>
        fc.record({
          r: fc.constant(r),
          topkGroup: fc.integer({ min: 1, max: r.nGroup }),
          k: fc.integer({ min: 1, max: r.groupSize }),
          logits: fc.array(fc.integer({ min: -40, max: 40 }), {
            minLength: r.nGroup * r.groupSize,
            maxLength: r.nGroup * r.groupSize,
          }),
        }),
      );
    fc.assert(
      fc.property(cases, ({ r, topkGroup, k, logits }) => {
        const c: MoeConfig = {
          ...(r.sigmoid ? v3 : v2),
          nRoutedExperts: logits.length,
          nGroup: r.nGroup,
          topkGroup,
          numExpertsPerTok: k,
          normTopkProb: r.norm,
        };
        // Eighths keep distinct scores apart in f32; equal ones are broken by index everywhere.
        const values = logits.map((l) => l / 8);
        const bias = r.sigmoid ? values.map((_, i) => ((i * r.seed) % 5) / 4) : null;
        const { experts, weights } = routeLogits(values, bias, c);
        const expected = plainWeights(values, bias && Float64Array.from(bias), c);
        const actual = new Array<number>(logits.length).fill(0);
        experts.forEach((e, i) => {
          actual[e] = weights[i]!;
        });
        for (const [e, w] of expected.entries()) expect(actual[e]).toBeCloseTo(w, 4);
      }),
      { numRuns: 40 },
    );
  });
});

test("no token is dropped when all go to the same experts", async () => {
  const c = { ...v3, nGroup: 1, topkGroup: 1 };
  const p = { ...params(c), eScoreCorrectionBias: tensor([9, 9, 9, 0, 0, 0, 0, 0]) };
  const x = normal(key(8), [1, 11, 6]);
  const { output, load } = moe(p, x, c);
  expect([...(await load.data())]).toEqual([11, 11, 11, 0, 0, 0, 0, 0]);
  const expected = denseMoeReference(toPlain(p), Float64Array.from(await x.data()), c);
  const values = await output.data();
  for (const [i, y] of expected.entries()) expect(Math.abs(values[i]! - y)).toBeLessThan(1e-4);
});

test("bf16 activations are routed in f32 and stay bf16", async () => {
  const p = params(v3);
  const x = cast(normal(key(6), [1, 9, 6]), "bf16");
  const narrow = treeMap((w: Tensor) => (w.rank > 1 ? cast(w, "bf16") : w), p);
  const { output, routing } = moe({ ...narrow, gate: p.gate }, x, v3);
  const full = moe(p, cast(x, "f32"), v3);
  expect(output.dtype).toBe("bf16");
  expect(await routing.scores.data()).toEqual(await full.routing.scores.data());
  const [a, b] = [await output.data(), await full.output.data()];
  for (const [i, y] of (b as Float32Array).entries()) {
    expect(Math.abs(a[i]! - y)).toBeLessThan(0.03 * (1 + Math.abs(y)));
  }
});

test("the bias moves by gamma against the load, and rests on the mean", async () => {
  const bias = tensor([0.5, 0.5, 0.5]);
  const moved = await updateBias(bias, tensor([10, 2, 6]), 0.125).data();
  expect([...moved]).toEqual([0.375, 0.625, 0.5]);
});

describe("the balance loss", () => {
  const c = { ...v3, nRoutedExperts: 4, numExpertsPerTok: 2 };

  test("is 1 for an even load and E/K when the same experts have all affinity", async () => {
    const even = tensor([
      [
        [1, 1, 0, 0],
        [0, 0, 1, 1],
      ],
    ] as number[][][]);
    expect(await balanceLoss(even, c).item()).toBeCloseTo(1, 6);
    const skewed = tensor([
      [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
      ],
    ] as number[][][]);
    expect(await balanceLoss(skewed, c).item()).toBeCloseTo(2, 6);
  });

  test("follows equations 17 to 20, one sequence at a time", async () => {
    const [B, T, E, K] = [3, 5, 4, 2];
    const scores = add(mul(normal(key(9), [B, T, E]), 0.1), 0.5);
    const s = await scores.data();
    let expected = 0;
    for (let b = 0; b < B; b++) {
      const rows = Array.from({ length: T }, (_, t) => [
        ...s.subarray((b * T + t) * E, (b * T + t + 1) * E),
      ]);
      for (let i = 0; i < E; i++) {
        const f = (E / (K * T)) * rows.filter((row) => best(row, K).includes(i)).length;
        const P = rows.reduce((p, row) => p + row[i]! / row.reduce((a, v) => a + v, 0), 0) / T;
        expected += (f * P) / B;
      }
    }
    expect(await balanceLoss(scores, c).item()).toBeCloseTo(expected, 5);
  });

  test("its gradient lowers the affinity of crowded experts", async () => {
    const crowded = tensor([
      [
        [0.9, 0.8, 0.1, 0.1],
        [0.9, 0.8, 0.1, 0.1],
      ],
    ] as number[][][]);
    const [loss, gradient] = valueAndGrad((s: Tensor) => balanceLoss(s, c))(crowded);
    const after = balanceLoss(sub(crowded, mul(gradient, 0.05)), c);
    expect(await after.item()).toBeLessThan(await loss.item());
  });
});

test("training in bf16 multiplies gate and up as one, and learns what it does by two products", async () => {
  const [x, dy] = [normal(key(6), [2, 7, v3.hiddenSize]), normal(key(7), [2, 7, v3.hiddenSize])];
  const step = (rounded: (w: Tensor) => Tensor) =>
    compile((p: MoeParams, x: Tensor) => {
      const loss = (p: MoeParams, x: Tensor) => {
        const narrow = treeMap((w) => (w.rank > 1 ? rounded(w) : w), p) as MoeParams;
        const { output } = moe({ ...narrow, gate: p.gate }, cast(x, "bf16"), v3);
        return sum(mul(cast(output, "f32"), dy));
      };
      return valueAndGrad(loss, { argnums: [0, 1] })(p, x);
    });
  const one = step((w) => cast(w, "bf16"));
  const two = step((w) => maximum(cast(w, "bf16"), -100)); // something else than rounding: the same values
  const p = params(v3);
  const [[loss, grads], [expected, want]] = [one(p, x), two(p, x)];
  expect(await loss.item()).toBe(await expected.item());
  for (const [i, t] of treeLeaves(grads).entries()) {
    const [a, b] = [await t.data(), await treeLeaves(want)[i]!.data()];
    const largest = Math.max(...Array.from(b, Math.abs));
    b.forEach((v, j) => {
      expect(Math.abs(v - a[j]!)).toBeLessThanOrEqual(largest / 100);
    });
  }
  const kinds = (c: typeof one) => c.program(p, x).program.steps.map(({ kernel }) => kernel.kind);
  const count = (c: typeof one, kind: string) => kinds(c).filter((k) => k === kind).length;
  expect([count(one, "groupedMatmul"), count(two, "groupedMatmul")]).toEqual([6, 9]);
  expect([count(one, "matmul"), count(two, "matmul")]).toEqual([9, 12]);
  expect(kinds(one).length).toBeLessThan(kinds(two).length);
});

test("training gathers no rows for the experts: their products take them from the tokens", () => {
  const c = { ...v3, hiddenSize: 32 };
  const rounded = (w: Tensor) => (w.rank > 1 ? cast(w, "bf16") : w);
  const loss = (p: MoeParams, x: Tensor) => {
    const narrow = treeMap(rounded, p) as MoeParams;
    return sum(cast(moe({ ...narrow, gate: p.gate }, cast(x, "bf16"), c).output, "f32"));
  };
  const step = compile((p: MoeParams, x: Tensor) =>
    valueAndGrad(loss, { argnums: [0, 1] as const })(p, x),
  );
  const x = normal(key(6), [2, 35, c.hiddenSize]);
  const { program } = step.program(initMoe(c, key(4), 0.8), x);
  const rows = 2 * 35 * c.numExpertsPerTok * c.hiddenSize;
  const ofRows = program.steps.filter(({ writes, buffers }) =>
    writes.some((slot) => program.buffers[buffers[slot]!]!.elements === rows),
  );
  // What experts put out, and the gradient of what they were given.
  expect(ofRows.map(({ kernel }) => kernel.kind)).toEqual(["groupedMatmul", "groupedMatmul"]);
  const lookups = program.steps.flatMap(({ kernel }) =>
    kernel.kind === "groupedMatmul" ? [kernel.aRows, kernel.bRows] : [],
  );
  expect(lookups.filter((l) => l).map((l) => l!.extent)).toEqual([70, 70, 70, 70]);
});

test("padding reaches no expert, and other tokens get what they got without it", async () => {
  const p = params(v3);
  const x = normal(key(9), [2, 3, v3.hiddenSize]);
  const mask = [1, 0, 1, 0, 0, 1];
  const real = cast(tensor(Int32Array.from(mask), { shape: [2, 3], dtype: "i32" }), "bool");
  const whole = moe(p, x, v3);
  const { output, load } = moe(p, x, v3, real);
  const [expected, actual] = [await whole.output.data(), await output.data()];
  for (const [n, counts] of mask.entries()) {
    const at = (values: ArrayLike<number>) =>
      Array.from(values).slice(n * v3.hiddenSize, (n + 1) * v3.hiddenSize);
    if (counts) expect(at(actual)).toEqual(at(expected));
  }
  const visits = Array.from(await load.data()).reduce((a, b) => a + b);
  expect(visits).toBe(3 * v3.numExpertsPerTok);
});
