// jax-js, compiled by its jit, on its WebAssembly backend. Arrays are consumed by use: `.ref` keeps them.
import { readFileSync } from "node:fs";
import {
  blockUntilReady,
  defaultDevice,
  init,
  jit,
  nn,
  numpy as np,
  valueAndGrad,
} from "@jax-js/jax";
import { ADAM, inputs, NORM_EPSILON, oneHot, startWeights, trainShapes } from "../src/cases.ts";

await init("wasm");
defaultDevice("wasm");
const { version } = JSON.parse(
  readFileSync(new URL("node_modules/@jax-js/jax/package.json", import.meta.url), "utf8"),
);

const size = (shape) => shape.reduce((a, b) => a * b, 1);
const make = (shape, seed) => np.array(inputs(size(shape), seed)).reshape([...shape]);
const norm = (x, w) => {
  const scale = np.sqrt(np.mean(np.square(x.ref), -1, { keepdims: true }).add(NORM_EPSILON));
  return x.div(scale).mul(w);
};

export const library = {
  name: `jax-js ${version}`,
  threads: typeof Worker === "undefined" ? 1 : 2, // it looks for browsers' workers
  async prepare({ op, sizes }) {
    const [a, b, c] = sizes;
    if (op === "matmul") return pure(np.matmul, make([a, b], 1), make([b, c], 2));
    if (op === "softmax") return pure((x) => nn.softmax(x, -1), make([a, b], 1));
    if (op === "rmsNorm") return pure(norm, make([a, b], 1), make([b], 2));
    if (op === "attention") {
      const heads = [1, 2, 3].map((seed) => make([1, a, b, c], seed));
      return pure((q, k, v) => nn.dotProductAttention(q, k, v, { scale: c ** -0.5 }), ...heads);
    }
    return trainStep(sizes);
  },
};

function pure(fn, ...xs) {
  const compiled = jit(fn);
  const call = () => compiled(...xs.map((x) => x.ref));
  return {
    async run() {
      const y = call();
      await y.blockUntilReady();
      y.dispose();
    },
    result: async () => (await call().data()).slice(0, 8),
  };
}

function trainStep(sizes) {
  const [layers, width, heads, , , batch, time] = sizes;
  const shapes = trainShapes(sizes);
  const each = (f) =>
    Object.fromEntries(
      Object.entries(shapes.weights).map(([name, shape], i) => [name, f(name, shape, i)]),
    );
  const zero = () => each((_, shape) => np.zeros([...shape]));
  let weights = each((name, shape, i) =>
    np.array(startWeights(name, shape, i)).reshape([...shape]),
  );
  let first = zero();
  let second = zero();
  const features = make(shapes.features, 99);
  const targets = np.array(oneHot(...shapes.targets)).reshape(shapes.targets);

  const loss = (w, features, targets) => {
    let x = features;
    for (let i = 0; i < layers; i++) {
      const qkv = np.matmul(norm(x.ref, w[`norm1.${i}`]), w[`qkv.${i}`]);
      const [q, k, v] = np
        .split(qkv, 3, 1)
        .map((p) => p.reshape([batch, time, heads, width / heads]));
      const mixed = nn.dotProductAttention(q, k, v, { scale: (width / heads) ** -0.5 });
      x = x.add(np.matmul(mixed.reshape([batch * time, width]), w[`out.${i}`]));
      const up = nn.silu(np.matmul(norm(x.ref, w[`norm2.${i}`]), w[`up.${i}`]));
      x = x.add(np.matmul(up, w[`down.${i}`]));
    }
    const logits = np.matmul(norm(x, w.norm), w.head);
    return np.mean(nn.logsumexp(logits.ref, -1).sub(np.sum(logits.mul(targets), -1)));
  };
  const { rate, beta1, beta2, epsilon } = ADAM;
  let count = np.zeros([]);
  const step = jit((weights, first, second, count, features, targets) => {
    const kept = each((name) => weights[name].ref);
    const [value, grads] = valueAndGrad((w) => loss(w, features, targets))(weights);
    const t = count.add(1);
    const correction = (beta) =>
      np
        .exp(t.ref.mul(Math.log(beta)))
        .mul(-1)
        .add(1);
    const m = each((name) => first[name].mul(beta1).add(grads[name].ref.mul(1 - beta1)));
    const v = each((name) => second[name].mul(beta2).add(np.square(grads[name]).mul(1 - beta2)));
    const w = each((name) => {
      const scale = np.sqrt(v[name].ref.div(correction(beta2))).add(epsilon);
      return kept[name].sub(m[name].ref.div(correction(beta1)).div(scale).mul(rate));
    });
    return [value, w, m, v, t];
  });
  const next = async () => {
    const [value, ...after] = step(weights, first, second, count, features.ref, targets.ref);
    [weights, first, second, count] = after;
    await blockUntilReady(after);
    return value;
  };
  return {
    run: async () => (await next()).dispose(),
    async result() {
      const losses = [];
      for (let i = 0; i < 2; i++) losses.push((await (await next()).data())[0]);
      return losses;
    },
  };
}
