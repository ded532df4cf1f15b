import { expect, test } from "vitest";
import { type Case, inputs } from "./cases.ts";
import { measure } from "./contender.ts";
import { library } from "./dsv3.ts";
import { oneNodeModel } from "./onnx-model.ts";
import { formatRows } from "./part.ts";
import { alike, expectations, formatSideBySide, type SideBySide } from "./side-by-side.ts";

const task = (op: Case["op"], sizes: number[]): Case => ({ name: op, op, sizes });

test("our contender computes what the cases say", async () => {
  const [a, b] = [inputs(6, 1), inputs(6, 2)];
  const { result, milliseconds } = await measure(library, task("matmul", [2, 3, 2]), 1);
  const expected = [0, 1].flatMap((i) =>
    [0, 1].map((j) => [0, 1, 2].reduce((sum, k) => sum + a[3 * i + k]! * b[2 * k + j]!, 0)),
  );
  expect(alike(result!, expected)).toBe(true);
  expect(milliseconds).toBeGreaterThan(0);

  const softmax = await measure(library, task("softmax", [2, 4]), 1);
  expect(softmax.result!.slice(0, 4).reduce((x, y) => x + y)).toBeCloseTo(1, 5);
  const norm = await measure(library, task("rmsNorm", [1, 4]), 1);
  const scale = Math.sqrt(inputs(4, 1).reduce((sum, x) => sum + x * x, 0) / 4 + 1e-6);
  expect(norm.result![0]).toBeCloseTo((inputs(4, 1)[0]! / scale) * inputs(4, 2)[0]!, 5);
  expect((await measure(library, task("attention", [4, 2, 8]), 1)).result).toHaveLength(8);
});

test("our training step learns", async () => {
  const { result } = await measure(library, task("trainStep", [1, 16, 2, 32, 24, 2, 4]), 1);
  expect(result![0]).toBeCloseTo(Math.log(24), 1);
  expect(result![1]).toBeLessThan(result![0]!);
});

test("an ONNX model of one node is the protocol buffer that onnx.proto describes", () => {
  const shape = "0a0d08011209" + "0a020802" + "0a0308ac02"; // f32 [2, 300]
  const node = "0a027830" + "120179" + "220452656c75"; // x0 → y, Relu
  const input = `0a027830120f${shape}`;
  const output = `0a0179120f${shape}`;
  const graph = `0a0d${node}120452656c755a15${input}6214${output}`;
  const bytes = oneNodeModel({ op: "Relu", inputs: [[2, 300]], output: [2, 300] });
  expect(Buffer.from(bytes).toString("hex")).toBe(`080b3a42${graph}42021017`); // opset 23
});

const measured: SideBySide = {
  contenders: { ours: 2, "jax-js 1": 1, "tfjs-wasm 4": 1, "onnxruntime 1": 2 },
  cases: [
    {
      name: "matmul 1024³",
      milliseconds: { ours: 10, "jax-js 1": 40, "tfjs-wasm 4": 30 },
      otherResult: ["tfjs-wasm 4"],
      errors: { "onnxruntime 1": "no such operator" },
      flops: 2e9,
    },
  ],
};

test("tables show ratios, failures and results that differ", () => {
  const table = formatSideBySide(measured);
  expect(table).toContain("200.0 GFLOP/s");
  expect(table).toMatch(/40\.0 ms +4\.00×/);
  expect(table).toMatch(/3\.00× \(other result\)/);
  expect(table).toMatch(/error$/);
  const rows = formatRows(expectations(measured)).split("\n");
  expect(rows).toHaveLength(2); // nothing is said of a peer that failed
  expect(rows[0]).toMatch(/jax-js 1 +4 × +at least 3\.5 × +met/);
  expect(rows[1]).toMatch(/tfjs-wasm 4 +3 × +at least 3\.5 × +MISSED/);
});
