/**
 * Speed of loop kernels beside the machine's memory, overhead of small steps, time to compile.
 *
 *     node bench/kernels.ts [name…]
 */
import {
  add,
  type Backend,
  cast,
  compile,
  disposeTree,
  div,
  dtypeBytes,
  exp,
  mul,
  ones,
  permute,
  rmsNorm,
  scope,
  setBackend,
  silu,
  softmax,
  sqrt,
  square,
  sub,
  sum,
  type Tensor,
  treeLeaves,
} from "@dsv3/tensor";
import { wasmBackend } from "../src/index.ts";

type Fn = (...args: Tensor[]) => unknown;
interface Case {
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
  readonly fn: Fn;
}

const adamw: Fn = (w, m, v, g) => {
  const m1 = add(mul(m!, 0.9), mul(g!, 0.1));
  const v1 = add(mul(v!, 0.95), mul(square(g!), 0.05));
  const w1 = sub(w!, mul(add(div(m1, add(sqrt(v1), 1e-8)), mul(w!, 0.1)), 1e-3));
  return [w1, m1, v1];
};
const big = [2048, 1024];
const cases: Case[] = [
  { name: "scale", shapes: [big], fn: (x) => mul(x!, 2) },
  { name: "add", shapes: [big, big], fn: (x, y) => add(x!, y!) },
  { name: "add bias", shapes: [big, [1024]], fn: (x, y) => add(x!, y!) },
  { name: "exp", shapes: [big], fn: (x) => exp(x!) },
  { name: "silu·", shapes: [big, big], fn: (x, y) => mul(silu(x!), y!) },
  { name: "to bf16", shapes: [big], fn: (x) => cast(x!, "bf16") },
  { name: "to f16", shapes: [big], fn: (x) => cast(x!, "f16") },
  { name: "softmax 1024", shapes: [big], fn: (x) => softmax(x!) },
  { name: "softmax 64", shapes: [[32768, 64]], fn: (x) => softmax(x!) },
  { name: "rmsNorm 256", shapes: [[8192, 256], [256]], fn: (x, w) => rmsNorm(x!, w!, 1e-6) },
  { name: "adamw", shapes: [big, big, big, big], fn: adamw },
  { name: "sum all", shapes: [big], fn: (x) => sum(x!) },
  { name: "sum rows", shapes: [big], fn: (x) => sum(x!, 1) },
  { name: "sum columns 1024", shapes: [big], fn: (x) => sum(x!, 0) },
  { name: "sum columns 64", shapes: [[32768, 64]], fn: (x) => sum(x!, 0) },
  { name: "heads to front", shapes: [[8, 256, 16, 64]], fn: (x) => permute(x!, [0, 2, 1, 3]) },
  { name: "transpose", shapes: [big], fn: (x) => permute(x!, [1, 0]) },
  { name: "small add", shapes: [[64]], fn: (x) => add(x!, 1) },
  { name: "medium add", shapes: [[8192]], fn: (x) => add(x!, 1) },
];

const bytesOf = (tree: unknown) =>
  treeLeaves(tree as Tensor[]).reduce(
    (n, t) => n + (t as Tensor).shape.reduce((a, b) => a * b, dtypeBytes((t as Tensor).dtype)),
    0,
  );

function time(fn: Fn, args: readonly Tensor[]): [ms: number, bytes: number] {
  const compiled = compile(fn as never) as unknown as Fn;
  const first = compiled(...args);
  const bytes = bytesOf(args) + bytesOf(first);
  disposeTree(first as never);
  let best = Infinity;
  const until = performance.now() + 400;
  while (performance.now() < until) {
    const start = performance.now();
    const n = 10;
    for (let i = 0; i < n; i++) disposeTree(compiled(...args) as never);
    best = Math.min(best, (performance.now() - start) / n);
  }
  return [best, bytes];
}

const wanted = process.argv.slice(2);
const results = new Map<string, [number, number][]>();
for (const threads of [1, 2]) {
  const backend: Backend = await wasmBackend({ threads });
  setBackend(backend);
  for (const c of cases) {
    if (wanted.length > 0 && !wanted.some((w) => c.name.startsWith(w))) continue;
    const args = scope(() => c.shapes.map((s) => ones(s))) as Tensor[];
    const rows = results.get(c.name) ?? [];
    rows.push(time(c.fn, args));
    results.set(c.name, rows);
    disposeTree(args as never);
  }
  backend.dispose();
}
console.log(`${"".padEnd(18)}   1 thread: ms   GB/s   2 threads: ms   GB/s`);
for (const [name, rows] of results) {
  const cells = rows.map(
    ([ms, bytes]) => `${ms.toFixed(4).padStart(10)} ${(bytes / ms / 1e6).toFixed(1).padStart(6)}`,
  );
  console.log(`${name.padEnd(18)} ${cells.join("     ")}`);
}
