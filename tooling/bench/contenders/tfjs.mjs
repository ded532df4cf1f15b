// TensorFlow.js on its WebAssembly backend, operation by operation, as it works.
import { createRequire } from "node:module";
import { dirname, sep } from "node:path";
import * as tf from "@tensorflow/tfjs";
import {
  getThreadsCount,
  setThreadsCount,
  setWasmPaths,
  version_wasm,
} from "@tensorflow/tfjs-backend-wasm";
import { ADAM, inputs, NORM_EPSILON, oneHot, startWeights, trainShapes } from "../src/cases.ts";

setThreadsCount(2); // it takes one where it finds no browser's workers
setWasmPaths(
  dirname(createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm")) + sep,
);
await tf.setBackend("wasm");

const size = (shape) => shape.reduce((a, b) => a * b, 1);
const make = (shape, seed) => tf.tensor(inputs(size(shape), seed), [...shape]);
const norm = (x, w) =>
  tf.mul(tf.div(x, tf.sqrt(tf.add(tf.mean(tf.square(x), -1, true), NORM_EPSILON))), w);
// [batch, heads, time, width]
const attend = (q, k, v, scale) =>
  tf.matMul(tf.softmax(tf.mul(tf.matMul(q, k, false, true), scale)), v);

export const library = {
  name: `tfjs-wasm ${version_wasm}`,
  threads: getThreadsCount(),
  async prepare({ op, sizes }) {
    const [a, b, c] = sizes;
    if (op === "matmul") return pure((x, y) => tf.matMul(x, y), make([a, b], 1), make([b, c], 2));
    if (op === "softmax") return pure((x) => tf.softmax(x), make([a, b], 1));
    if (op === "rmsNorm") return pure(norm, make([a, b], 1), make([b], 2));
    if (op === "attention") {
      const heads = [1, 2, 3].map((seed) => tf.transpose(make([1, a, b, c], seed), [0, 2, 1, 3]));
      return pure((q, k, v) => tf.transpose(attend(q, k, v, c ** -0.5), [0, 2, 1, 3]), ...heads);
    }
    return trainStep(sizes);
  },
};

function pure(fn, ...xs) {
  const call = () => tf.tidy(() => fn(...xs));
  return {
    run: () => call().dispose(),
    async result() {
      const y = call();
      const data = y.dataSync().slice(0, 8);
      y.dispose();
      return data;
    },
    dispose: () => tf.dispose(xs),
  };
}

function trainStep(sizes) {
  const [layers, width, heads, , , batch, time] = sizes;
  const shapes = trainShapes(sizes);
  const w = Object.fromEntries(
    Object.entries(shapes.weights).map(([name, shape], i) => [
      name,
      tf.variable(tf.tensor(startWeights(name, shape, i), [...shape])),
    ]),
  );
  const features = make(shapes.features, 99);
  const targets = tf.tensor(oneHot(...shapes.targets), shapes.targets);
  const optimizer = tf.train.adam(ADAM.rate, ADAM.beta1, ADAM.beta2, ADAM.epsilon);
  const loss = () => {
    let x = features;
    for (let i = 0; i < layers; i++) {
      const qkv = tf.matMul(norm(x, w[`norm1.${i}`]), w[`qkv.${i}`]);
      const [q, k, v] = tf
        .split(qkv, 3, 1)
        .map((p) => tf.transpose(tf.reshape(p, [batch, time, heads, width / heads]), [0, 2, 1, 3]));
      const mixed = tf.transpose(attend(q, k, v, (width / heads) ** -0.5), [0, 2, 1, 3]);
      x = tf.add(x, tf.matMul(tf.reshape(mixed, [batch * time, width]), w[`out.${i}`]));
      const up = tf.matMul(norm(x, w[`norm2.${i}`]), w[`up.${i}`]);
      x = tf.add(x, tf.matMul(tf.mul(up, tf.sigmoid(up)), w[`down.${i}`]));
    }
    const logits = tf.matMul(norm(x, w.norm), w.head);
    return tf.mean(tf.sub(tf.logSumExp(logits, -1), tf.sum(tf.mul(logits, targets), -1)));
  };
  const next = () => optimizer.minimize(() => tf.tidy(loss), true);
  return {
    run: () => next().dispose(),
    async result() {
      const losses = [];
      for (let i = 0; i < 2; i++) losses.push(next().dataSync()[0]);
      return losses;
    },
    dispose: () => tf.disposeVariables(),
  };
}
