/** Our own contender: the same cases as programs of @dsv3/tensor. */
import { wasmBackend } from "@dsv3/backend-wasm";
import {
  add,
  attention,
  compile,
  disposeTree,
  div,
  exp,
  logSumExp,
  matmul,
  mean,
  mul,
  reshape,
  rmsNorm,
  setBackend,
  silu,
  slice,
  softmax,
  sqrt,
  square,
  sub,
  sum,
  type Tensor,
  tensor,
  treeMap,
  valueAndGrad,
  zeros,
} from "@dsv3/tensor";
import {
  ADAM,
  type Case,
  inputs,
  NORM_EPSILON,
  oneHot,
  startWeights,
  trainShapes,
} from "./cases.ts";
import type { Library, Prepared } from "./contender.ts";

const THREADS = 2;
setBackend(await wasmBackend({ threads: THREADS, wideVectors: true }));

const make = (shape: readonly number[], seed: number): Tensor =>
  tensor(
    inputs(
      shape.reduce((a, b) => a * b, 1),
      seed,
    ),
    { shape },
  );

export const library: Library = {
  name: "dsv3 (wasm)",
  threads: THREADS,
  async prepare({ op, sizes }: Case) {
    const [a = 0, b = 0, c = 0] = sizes;
    if (op === "matmul") return pure(matmul, make([a, b], 1), make([b, c], 2));
    if (op === "softmax") return pure((x: Tensor) => softmax(x), make([a, b], 1));
    if (op === "rmsNorm") {
      return pure(
        (x: Tensor, w: Tensor) => rmsNorm(x, w, NORM_EPSILON),
        make([a, b], 1),
        make([b], 2),
      );
    }
    if (op === "attention") {
      const heads = [1, 2, 3].map((seed) => make([1, a, b, c], seed)) as [Tensor, Tensor, Tensor];
      return pure(
        (q: Tensor, k: Tensor, v: Tensor) => attention(q, k, v, { scale: c ** -0.5 }),
        ...heads,
      );
    }
    return trainStep(sizes);
  },
};

function pure<T extends Tensor[]>(fn: (...xs: T) => Tensor, ...xs: T): Prepared {
  const compiled = compile(fn);
  return {
    run: () => compiled(...xs).dispose(),
    async result() {
      using y = compiled(...xs);
      return (await y.data()).slice(0, 8) as Float32Array;
    },
    dispose() {
      compiled.dispose();
      disposeTree(xs);
    },
  };
}

type Weights = Record<string, Tensor>;
type State = { weights: Weights; first: Weights; second: Weights; step: Tensor };

function trainStep(sizes: readonly number[]): Prepared {
  const [layers, width, heads, , , batch, time] = sizes as number[] & { length: 7 };
  const shapes = trainShapes(sizes);
  const entries = Object.entries(shapes.weights);
  const weights: Weights = Object.fromEntries(
    entries.map(([name, shape], i) => [name, tensor(startWeights(name, shape, i), { shape })]),
  );
  const zero = () => Object.fromEntries(entries.map(([name, shape]) => [name, zeros(shape)]));
  let state: State = { weights, first: zero(), second: zero(), step: zeros([]) };
  const features = make(shapes.features, 99);
  const targets = tensor(oneHot(shapes.targets[0]!, shapes.targets[1]!), { shape: shapes.targets });

  const loss = (w: Weights, features: Tensor, targets: Tensor): Tensor => {
    let x = features;
    for (let i = 0; i < layers!; i++) {
      const qkv = matmul(rmsNorm(x, w[`norm1.${i}`]!, NORM_EPSILON), w[`qkv.${i}`]!);
      const cut = (part: number) =>
        reshape(slice(qkv, [0, part * width!], [batch! * time!, (part + 1) * width!]), [
          batch!,
          time!,
          heads!,
          width! / heads!,
        ]);
      const mixed = attention(cut(0), cut(1), cut(2), { scale: (width! / heads!) ** -0.5 });
      x = add(x, matmul(reshape(mixed, [batch! * time!, width!]), w[`out.${i}`]!));
      const up = silu(matmul(rmsNorm(x, w[`norm2.${i}`]!, NORM_EPSILON), w[`up.${i}`]!));
      x = add(x, matmul(up, w[`down.${i}`]!));
    }
    const logits = matmul(rmsNorm(x, w.norm!, NORM_EPSILON), w.head!);
    return mean(sub(logSumExp(logits, -1), sum(mul(logits, targets), -1)));
  };

  const step = compile(
    (state: State, features: Tensor, targets: Tensor) => {
      const [value, grads] = valueAndGrad((w: Weights) => loss(w, features, targets))(
        state.weights,
      );
      const step = add(state.step, 1);
      const { rate, beta1, beta2, epsilon } = ADAM;
      const correction = (beta: number) => sub(1, exp(mul(step, Math.log(beta))));
      const first = treeMap(
        (m: Tensor, g: Tensor) => add(mul(m, beta1), mul(g, 1 - beta1)),
        state.first,
        grads,
      );
      const second = treeMap(
        (v: Tensor, g: Tensor) => add(mul(v, beta2), mul(square(g), 1 - beta2)),
        state.second,
        grads,
      );
      const weights = treeMap(
        (w: Tensor, m: Tensor, v: Tensor) => {
          const scale = add(sqrt(div(v, correction(beta2))), epsilon);
          return sub(w, mul(div(div(m, correction(beta1)), scale), rate));
        },
        state.weights,
        first,
        second,
      );
      return { value, state: { weights, first, second, step } as State };
    },
    { donate: [0] },
  );
  const next = (): Tensor => {
    const { value, state: after } = step(state, features, targets);
    state = after;
    return value;
  };
  return {
    run: () => next().dispose(),
    async result() {
      const losses: number[] = [];
      for (let i = 0; i < 2; i++) {
        using value = next();
        losses.push(await value.item());
      }
      return losses;
    },
    dispose() {
      step.dispose();
      disposeTree([state, features, targets]);
    },
  };
}
