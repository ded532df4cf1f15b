// ONNX Runtime's native CPU provider (AVX), on models of one node made here. It does not train.
import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import { inputs, NORM_EPSILON } from "../src/cases.ts";
import { oneNodeModel } from "../src/onnx-model.ts";

const THREADS = 2;
const { version } = JSON.parse(
  readFileSync(new URL("node_modules/onnxruntime-node/package.json", import.meta.url), "utf8"),
);
const size = (shape) => shape.reduce((a, b) => a * b, 1);

export const library = {
  name: `onnxruntime ${version}`,
  threads: THREADS,
  async prepare({ op, sizes }) {
    const [a, b, c] = sizes;
    if (op === "matmul")
      return node({
        op: "MatMul",
        inputs: [
          [a, b],
          [b, c],
        ],
        output: [a, c],
      });
    if (op === "softmax") return node({ op: "Softmax", inputs: [[a, b]], output: [a, b] });
    if (op === "rmsNorm") {
      const attributes = { epsilon: NORM_EPSILON };
      return node({ op: "RMSNormalization", inputs: [[a, b], [b]], output: [a, b], attributes });
    }
    if (op === "attention") {
      const shape = [1, a, b * c];
      const attributes = { q_num_heads: b, kv_num_heads: b, scale: c ** -0.5 };
      return node({ op: "Attention", inputs: [shape, shape, shape], output: shape, attributes });
    }
    return undefined;
  },
};

async function node(model) {
  const session = await ort.InferenceSession.create(oneNodeModel(model), {
    intraOpNumThreads: THREADS,
    interOpNumThreads: 1,
    executionMode: "sequential",
  });
  const feeds = Object.fromEntries(
    model.inputs.map((shape, i) => [
      `x${i}`,
      new ort.Tensor("float32", inputs(size(shape), i + 1), shape),
    ]),
  );
  const y = new ort.Tensor("float32", new Float32Array(size(model.output)), model.output);
  return {
    async run() {
      await session.run(feeds, { y });
    },
    async result() {
      await session.run(feeds, { y });
      return y.data.slice(0, 8);
    },
    dispose: () => session.release(),
  };
}
