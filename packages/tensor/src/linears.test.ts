import { beforeAll, describe, expect, test } from "vitest";
import { compile } from "./compile.ts";
import { inFp8 } from "./fp8.ts";
import { valueAndGrad } from "./grad.ts";
import { groupedLinear, groupedLinears, linear, linears, swiglu } from "./nn.ts";
import { cast, mul } from "./ops/pointwise.ts";
import { sum } from "./ops/reduce.ts";
import { key, normal } from "./random.ts";
import { setBackend, type Tensor, tensor } from "./tensor.ts";
import { referenceBackend } from "./testing/reference-backend.ts";

beforeAll(() => setBackend(referenceBackend()));

const SLOW = { timeout: 30_000 };
const K = 128;
const KINDS = {
  linear: {
    lead: [],
    together: (x: Tensor, ws: Tensor[]) => linears(x, ws),
    apart: (x: Tensor, ws: Tensor[]) => ws.map((w) => linear(x, w)),
  },
  groupedLinear: {
    lead: [2],
    together: groupedLinears,
    apart: (x: Tensor, ws: Tensor[], o: Tensor) => ws.map((w) => groupedLinear(x, w, o)),
  },
};
const WEIGHTS = {
  bf16: (w: Tensor) => cast(w, "bf16"),
  fp8: inFp8,
  stored: (w: Tensor) => w,
};

/** SwiGLU on x [20, K] with gate and up [.., F, K], and its gradients; with values to run it on. */
function traced(
  kind: keyof typeof KINDS,
  weights: keyof typeof WEIGHTS,
  F: number,
  joined: boolean,
) {
  const { together, apart, lead } = KINDS[kind];
  const [gate, up] = [normal(key(1), [...lead, F, K]), normal(key(2), [...lead, F, K])];
  const [x, dy] = [normal(key(3), [20, K]), normal(key(4), [20, F])];
  const offsets = tensor([0, 7, 20], { dtype: "i32" });
  const fn = compile((x: Tensor, gate: Tensor, up: Tensor, dy: Tensor) => {
    const loss = (x: Tensor, gate: Tensor, up: Tensor) => {
      const ws = [gate, up].map(WEIGHTS[weights]);
      const product = joined ? together : apart;
      const [g, u] = product(cast(x, "bf16"), ws, offsets) as [Tensor, Tensor];
      const y = cast(swiglu(g, u), "f32");
      return [sum(mul(y, dy)), y] as const;
    };
    const [[, y], [dx, dGate, dUp]] = valueAndGrad(loss, { argnums: [0, 1, 2] })(x, gate, up);
    return { y, dx, dGate, dUp };
  });
  return { run: () => fn(x, gate, up, dy), program: fn.program(x, gate, up, dy) };
}

const numbers = async (t: Tensor) => Array.from((await t.data()) as Float32Array);
const products = (text: string) => text.split("\n").filter((l) => /atmul/.test(l)).length;

const CASES = (["linear", "groupedLinear"] as const).flatMap((kind) =>
  (["bf16", "fp8"] as const).map((weights) => [kind, weights] as const),
);

describe.each(CASES)("%s with several matrices in %s", (kind, weights) => {
  test(
    "gives what each alone gives, by half as many products and fewer kernels",
    SLOW,
    async () => {
      const [one, two] = [traced(kind, weights, 128, true), traced(kind, weights, 128, false)];
      const [joined, each] = [one.run(), two.run()];
      for (const name of ["y", "dGate", "dUp"] as const) {
        expect(await numbers(joined[name]), name).toEqual(await numbers(each[name]));
      }
      // One sum, which is rounded once, for two that are rounded each and then added.
      const [got, want] = [await numbers(joined.dx), await numbers(each.dx)];
      const largest = Math.max(...want.map(Math.abs));
      got.forEach((v, i) => {
        expect(Math.abs(v - (want[i] as number))).toBeLessThan(largest / 100);
      });
      const [text, before] = [one.program.toString(), two.program.toString()];
      expect([products(text), products(before)]).toEqual([3, 6]);
      expect(one.program.program.steps.length).toBeLessThan(two.program.program.steps.length);
    },
  );
});

test("each matrix is rounded into its place, and both gradients of SwiGLU into theirs", () => {
  for (const kind of ["linear", "groupedLinear"] as const) {
    const { steps } = traced(kind, "bf16", 128, true).program.program;
    expect(steps.filter(({ label }) => label.includes("concat"))).toEqual([]);
    const twice = steps.filter(
      ({ kernel }) =>
        kernel.kind === "loop" &&
        kernel.stages.some(({ stores }) => new Set(stores.map((s) => s.slot)).size < stores.length),
    );
    // dGate and dUp, together with the result.
    expect(twice.map(({ writes }) => writes.length)).toEqual([2]);
  }
});

test("stored matrices are not copied, nor are tiles of FP8 moved", SLOW, () => {
  for (const kind of ["linear", "groupedLinear"] as const) {
    for (const [weights, F] of [
      ["stored", 128],
      ["fp8", 96],
    ] as const) {
      const [one, two] = [traced(kind, weights, F, true), traced(kind, weights, F, false)];
      expect(one.program.toString()).toBe(two.program.toString());
    }
  }
});

test("in FP8 the last matrix may end inside a tile, others may not", SLOW, async () => {
  const product = (rows: readonly number[], joined: boolean) => {
    const ws = rows.map((m, i) => normal(key(i), [m, K]));
    const fn = compile((x: Tensor, ...ws: Tensor[]) => {
      const marked = ws.map(inFp8);
      const narrow = cast(x, "bf16");
      return joined ? linears(narrow, marked) : marked.map((w) => linear(narrow, w));
    });
    const args = [normal(key(9), [20, K]), ...ws] as const;
    return { values: fn(...args), products: products(fn.program(...args).toString()) };
  };
  for (const [rows, expected] of [
    [[128, 32], 1],
    [[32, 128], 2],
  ] as const) {
    const [one, each] = [product(rows, true), product(rows, false)];
    expect([one.products, each.products]).toEqual([expected, 2]);
    for (const [i, y] of one.values.entries())
      expect(await numbers(y)).toEqual(await numbers(each.values[i] as Tensor));
  }
});
