/**
 * Checks kernels against float64 and times them beside their floors, on a GPU:
 * `node bench/kernels.ts [name pattern]`. Floor: the larger of operations over the matrix rate and
 * bytes over copy bandwidth. Exits with 1 if a result is wrong or changes between runs.
 */
import type { Backend, DeviceBuffer, DType } from "../src/contract.ts";
import { dtypeBytes, toF32 } from "../src/contract.ts";
import { cudaBackend } from "../src/index.ts";
import { BANDWIDTH, type Case, RandomValues } from "./case.ts";
import { FP8_CASES } from "./fp8-cases.ts";
import { loopCases } from "./loop-cases.ts";
import { MATRIX_CASES } from "./matrix-cases.ts";

/** Work in one measurement. */
const MILLISECONDS = 40;

const random = new RandomValues();

function fill(backend: Backend, buffer: DeviceBuffer, bytes: Uint8Array): void {
  for (let at = 0; at < buffer.bytes; at += bytes.length)
    backend.write(buffer, bytes.subarray(0, Math.min(bytes.length, buffer.bytes - at)), at);
}

/** One number of a little-endian buffer. */
function element(bytes: Uint8Array, dtype: DType, index: number): number {
  const size = dtypeBytes(dtype);
  const own = bytes.slice(index * size, (index + 1) * size);
  return dtype === "i32"
    ? new DataView(own.buffer).getInt32(0, true)
    : (toF32(own, dtype)[0] as number);
}

/** The worst output's ‖got − want‖ / ‖want‖ over the samples. */
function error(c: Case, outputs: ReadonlyMap<number, Uint8Array>): number {
  const { buffers } = c.program;
  const samples = c.expected((buffer, index) => {
    const given = c.given.get(buffer);
    return given
      ? (given[index] as number)
      : random.at((buffers[buffer] as { dtype: DType }).dtype, index);
  });
  const sums = new Map<number, { difference: number; norm: number }>();
  for (const { buffer, index, value } of samples) {
    const got = element(
      outputs.get(buffer) as Uint8Array,
      (buffers[buffer] as { dtype: DType }).dtype,
      index,
    );
    const s = sums.get(buffer) ?? { difference: 0, norm: 0 };
    sums.set(buffer, { difference: s.difference + (got - value) ** 2, norm: s.norm + value ** 2 });
  }
  return [...sums.values()].reduce(
    (worst, { difference, norm }) => Math.max(worst, Math.sqrt(difference / norm)),
    0,
  );
}

interface Measured {
  readonly error: number;
  readonly stable: boolean;
  readonly milliseconds: number;
}

function measure(backend: Backend, c: Case): Measured {
  const { program } = c;
  const bound = program.buffers.slice(0, program.inputs + program.outputs);
  const buffers = bound.map((spec, i) => {
    const buffer = backend.alloc(Math.max(spec.bytes, 1));
    const given = c.given.get(i);
    if (i >= program.inputs) fill(backend, buffer, new Uint8Array(1 << 20).fill(0xff));
    else if (given) backend.write(buffer, new Uint8Array(given.buffer));
    else fill(backend, buffer, random.bytes(spec.dtype));
    return buffer;
  });
  const outputs = () =>
    new Map(
      buffers
        .slice(program.inputs)
        .map((b, i) => [program.inputs + i, backend.readSync(b)] as const),
    );
  const flag = backend.alloc(64);
  const wait = () => backend.readSync(flag);
  const time = (steps: number, runs: number) => {
    const executable = backend.compile({
      ...program,
      steps: Array.from({ length: steps }, () => program.steps).flat(),
    });
    for (let i = 0; i < 3; i++) executable.run(buffers); // the second is recorded
    wait();
    const start = performance.now();
    for (let i = 0; i < runs; i++) executable.run(buffers);
    wait();
    const milliseconds = (performance.now() - start) / (steps * runs);
    executable.dispose();
    return milliseconds;
  };
  const once = time(1, 1);
  const first = outputs();
  const repeats = Math.max(1, Math.min(50, Math.round(MILLISECONDS / 4 / once)));
  const times = [0, 1, 2].map(() => time(repeats, 4)).sort((a, b) => a - b);
  const last = outputs();
  const stable = [...first].every(([i, bytes]) =>
    Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).equals(last.get(i) as Uint8Array),
  );
  for (const b of [...buffers, flag]) backend.free(b);
  return { error: error(c, first), stable, milliseconds: times[1] as number };
}

const pattern = new RegExp(process.argv[2] ?? "");
const backend = await cudaBackend();
let wrong = 0;
console.log(
  `${"kernel".padEnd(60)} ${"error".padStart(8)} ${"ms".padStart(8)} TFLOP/s   GB/s of floor`,
);
for (const make of [...MATRIX_CASES, ...FP8_CASES, ...loopCases(backend)]) {
  const c = make();
  if (!pattern.test(c.name)) continue;
  const { error, stable, milliseconds: ms } = measure(backend, c);
  const floor = Math.max(c.flops / c.rate, c.bytes / BANDWIDTH) * 1e3;
  const right = error <= c.tolerance && stable;
  if (!right) wrong += 1;
  console.log(
    c.name.padEnd(60),
    error.toExponential(1).padStart(8),
    ms.toFixed(4).padStart(8),
    (c.flops / ms / 1e9).toFixed(0).padStart(7),
    (c.bytes / ms / 1e6).toFixed(0).padStart(6),
    `${((100 * floor) / ms).toFixed(0).padStart(7)}%`,
    right ? "" : stable ? "WRONG" : "UNSTABLE",
    c.program.steps.length > 1 ? `(${c.program.steps.length} steps)` : "",
  );
}
backend.dispose();
console.log(wrong === 0 ? "all right" : `${wrong} wrong`);
process.exitCode = wrong === 0 ? 0 : 1;
