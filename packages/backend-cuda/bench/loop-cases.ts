/** Element-wise work, reductions and routing, written with the tensor package as the model has them. */
import {
  abs,
  add,
  type Backend,
  cast,
  compile,
  countingSort,
  crossEntropy,
  type DType,
  div,
  expandDims,
  max,
  mul,
  reshape,
  rmsNorm,
  rotary,
  setBackend,
  sigmoid,
  sqrt,
  square,
  sub,
  sum,
  swiglu,
  type Tensor,
  take,
  takeAlong,
  topK,
  transpose,
  treeLeaves,
  valueAndGrad,
  zeros,
} from "@dsv3/tensor";
import { type Case, RATE, some, totalBytes } from "./case.ts";

interface Argument {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly data?: Int32Array;
}

type Read = (argument: number, index: number) => number;
/** (output, index, value) */
type Want = readonly [output: number, index: number, value: number];

interface Loop {
  readonly name: string;
  readonly args: readonly Argument[];
  readonly fn: (...xs: Tensor[]) => unknown;
  expected(read: Read): Want[];
  readonly tolerance?: number;
  /** Bytes to move at least, where it is not every argument and result once. */
  readonly bytes?: number;
}

function program(backend: Backend, c: Loop): Case {
  setBackend(backend);
  const args = c.args.map(({ shape, dtype }) => zeros(shape, dtype));
  const compiled = compile((...xs: Tensor[]) => treeLeaves(c.fn(...xs)), { name: c.name });
  const { program } = compiled.program(...args);
  compiled.dispose();
  for (const arg of args) arg.dispose();
  const { inputs, outputs, buffers } = program;
  const moved = buffers
    .slice(0, inputs + outputs)
    .reduce((bytes, b) => bytes + totalBytes(b.dtype, b.elements), 0);
  return {
    name: c.name,
    program,
    given: new Map(c.args.flatMap(({ data }, i) => (data ? [[i, data] as const] : []))),
    flops: 0,
    bytes: c.bytes ?? moved,
    rate: RATE.f32,
    expected: (input) =>
      c
        .expected(input)
        .map(([output, index, value]) => ({ buffer: inputs + output, index, value })),
    tolerance: c.tolerance ?? 4e-3,
  };
}

const bf16 = (...shape: number[]): Argument => ({ shape, dtype: "bf16" });
const f32 = (...shape: number[]): Argument => ({ shape, dtype: "f32" });

/** Whole numbers below n. */
function ids(count: number, n: number): Argument {
  let state = 7;
  const data = Int32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  });
  return { shape: [count], dtype: "i32", data };
}

/** Where f(i) is wanted for some i of an output of n elements. */
function each(n: number, f: (i: number) => number, output = 0): Want[] {
  return some(n, 200).map((i) => [output, i, f(i)]);
}

const logistic = (x: number) => 1 / (1 + Math.exp(-x));

const TOKENS = 16_384;
const WIDTH = 7168;
const VOCABULARY = 129_280;

function addition(): Loop {
  const n = TOKENS * WIDTH;
  return {
    name: `residual addition bf16, ${TOKENS} x ${WIDTH}`,
    args: [bf16(TOKENS, WIDTH), bf16(TOKENS, WIDTH)],
    fn: (a, b) => add(a as Tensor, b as Tensor),
    expected: (x) => each(n, (i) => x(0, i) + x(1, i)),
  };
}

function narrowing(): Loop {
  const n = TOKENS * WIDTH;
  return {
    name: `f32 to bf16, ${TOKENS} x ${WIDTH}`,
    args: [f32(TOKENS, WIDTH)],
    fn: (a) => cast(a as Tensor, "bf16"),
    expected: (x) => each(n, (i) => x(0, i)),
  };
}

function transposition(): Loop {
  const n = 8192;
  return {
    name: `transposition bf16, ${n} x ${n}`,
    args: [bf16(n, n)],
    fn: (a) => mul(transpose(a as Tensor), 2),
    expected: (x) => each(n * n, (i) => 2 * x(0, (i % n) * n + Math.floor(i / n))),
  };
}

function turnedCopy(): Loop {
  const [rows, columns] = [7168, 18_432];
  return {
    name: `f32 to bf16 transposed, ${rows} x ${columns}`,
    args: [f32(rows, columns)],
    fn: (a) => mul(transpose(cast(a as Tensor, "bf16")), 2),
    expected: (x) =>
      each(rows * columns, (i) => 2 * x(0, (i % rows) * columns + Math.floor(i / rows))),
  };
}

function activation(grad: boolean): Loop {
  const shape = [65_536, 2048] as const;
  const n = shape[0] * shape[1];
  if (!grad)
    return {
      name: `swiglu bf16, ${shape.join(" x ")}`,
      args: [bf16(...shape), bf16(...shape)],
      fn: (g, u) => swiglu(g as Tensor, u as Tensor),
      expected: (x) => each(n, (i) => x(0, i) * logistic(x(0, i)) * x(1, i)),
    };
  return {
    name: `swiglu gradient bf16, ${shape.join(" x ")}`,
    args: [bf16(...shape), bf16(...shape), bf16(...shape)],
    fn: (gate, up, dy) =>
      valueAndGrad((g: Tensor, u: Tensor) => sum(mul(swiglu(g, u), dy as Tensor)), {
        argnums: [0, 1],
      })(gate as Tensor, up as Tensor)[1],
    expected: (x) =>
      some(n, 200).flatMap((i): Want[] => {
        const [g, u, dy] = [x(0, i), x(1, i), x(2, i)];
        const s = logistic(g);
        return [
          [0, i, dy * u * s * (1 + g * (1 - s))],
          [1, i, dy * g * s],
        ];
      }),
  };
}

function norm(grad: boolean): Loop {
  const eps = 1e-6;
  const meanSquare = (x: Read, r: number) => {
    let total = 0;
    for (let c = 0; c < WIDTH; c++) total += x(0, r * WIDTH + c) ** 2;
    return total / WIDTH;
  };
  if (!grad)
    return {
      name: `rmsNorm bf16, ${TOKENS} x ${WIDTH}`,
      args: [bf16(TOKENS, WIDTH), bf16(WIDTH)],
      fn: (a, w) => rmsNorm(a as Tensor, w as Tensor, eps),
      expected: (x) =>
        each(
          TOKENS * WIDTH,
          (i) =>
            (x(0, i) * x(1, i % WIDTH)) / Math.sqrt(meanSquare(x, Math.floor(i / WIDTH)) + eps),
        ),
    };
  return {
    name: `rmsNorm gradient bf16, ${TOKENS} x ${WIDTH}`,
    args: [bf16(TOKENS, WIDTH), bf16(WIDTH), bf16(TOKENS, WIDTH)],
    fn: (a, w, dy) =>
      valueAndGrad((p: Tensor, q: Tensor) => sum(mul(rmsNorm(p, q, eps), dy as Tensor)), {
        argnums: [0, 1],
      })(a as Tensor, w as Tensor)[1],
    expected: (x) =>
      some(TOKENS * WIDTH, 40).map((i): Want => {
        const [r, c] = [Math.floor(i / WIDTH), i % WIDTH];
        const scale = 1 / Math.sqrt(meanSquare(x, r) + eps);
        let dot = 0;
        for (let j = 0; j < WIDTH; j++) dot += x(2, r * WIDTH + j) * x(1, j) * x(0, r * WIDTH + j);
        return [0, i, scale * x(2, i) * x(1, c) - (scale ** 3 * x(0, i) * dot) / WIDTH];
      }),
  };
}

function rotation(): Loop {
  const [b, t, h, d] = [8, 4096, 32, 64];
  return {
    name: `rotary bf16, ${b} x ${t} x ${h} heads of ${d}`,
    args: [bf16(b, t, h, d), f32(t, d / 2), f32(t, d / 2)],
    fn: (x, cos, sin) => rotary(x as Tensor, { cos: cos as Tensor, sin: sin as Tensor }),
    expected: (x) =>
      each(b * t * h * d, (i) => {
        const at = (Math.floor(i / (h * d)) % t) * (d / 2) + ((i % d) >> 1);
        const [cos, sin] = [x(1, at), x(2, at)];
        return i % 2 === 0 ? x(0, i) * cos - x(0, i + 1) * sin : x(0, i - 1) * sin + x(0, i) * cos;
      }),
  };
}

function loss(): Loop {
  const rows = 4096;
  const targets = ids(rows, VOCABULARY);
  return {
    name: `cross-entropy and gradient bf16, ${rows} x ${VOCABULARY}`,
    args: [bf16(rows, VOCABULARY), targets],
    fn: (logits, t) =>
      valueAndGrad((x: Tensor) => sum(crossEntropy(x, t as Tensor)))(logits as Tensor),
    expected: (x) =>
      some(rows, 3).flatMap((r) => {
        let total = 0;
        for (let c = 0; c < VOCABULARY; c++) total += Math.exp(x(0, r * VOCABULARY + c));
        const target = (targets.data as Int32Array)[r] as number;
        return [...some(VOCABULARY, 50), target].map((c): Want => {
          const i = r * VOCABULARY + c;
          return [1, i, Math.exp(x(0, i)) / total - (c === target ? 1 : 0)];
        });
      }),
  };
}

/** Parameters and moments f32, gradient bf16. */
function optimiser(): Loop {
  const n = 134_217_728;
  const [beta1, beta2, eps, rate] = [0.9, 0.95, 1e-8, 1e-3];
  return {
    name: `AdamW, ${n} parameters f32, gradient bf16`,
    args: [f32(n), bf16(n), f32(n), f32(n)],
    fn: (p, g, m, v) => {
      const grad = cast(g as Tensor, "f32");
      const first = add(mul(m as Tensor, beta1), mul(grad, 1 - beta1));
      const second = add(mul(square(v as Tensor), beta2), mul(square(grad), 1 - beta2));
      const step = div(first, add(sqrt(second), eps));
      return [sub(mul(p as Tensor, 1 - rate * 0.1), mul(step, rate)), first, second];
    },
    expected: (x) =>
      some(n, 100).flatMap((i): Want[] => {
        const first = x(2, i) * beta1 + x(1, i) * (1 - beta1);
        const second = x(3, i) ** 2 * beta2 + x(1, i) ** 2 * (1 - beta2);
        const step = first / (Math.sqrt(second) + eps);
        return [
          [0, i, x(0, i) * (1 - rate * 0.1) - step * rate],
          [1, i, first],
          [2, i, second],
        ];
      }),
    tolerance: 1e-6,
  };
}

/** E4M3 with a scale for every block: largest magnitude / 448. */
function quantisation(height: 1 | 128, width: 1 | 128): Loop {
  const [r, c] = height === 1 ? [TOKENS, WIDTH] : [18_432, WIDTH];
  const blocks = [r / height, c / width] as const;
  return {
    name: `fp8 in blocks of ${height} x ${width}, bf16 ${r} x ${c}`,
    args: [bf16(r, c)],
    fn: (a) => {
      const x = reshape(cast(a as Tensor, "f32"), [blocks[0], height, blocks[1], width]);
      const scale = mul(max(abs(x), [1, 3], { keepDims: true }), 1 / 448);
      return [
        reshape(cast(div(x, scale), "f8e4m3"), [r, c]),
        reshape(scale, [blocks[0], blocks[1]]),
      ];
    },
    expected: (x) =>
      some(blocks[0] * blocks[1], 40).map((block): Want => {
        const [y, z] = [Math.floor(block / blocks[1]) * height, (block % blocks[1]) * width];
        let most = 0;
        for (let i = 0; i < height; i++)
          for (let j = 0; j < width; j++)
            most = Math.max(most, Math.abs(x(0, (y + i) * c + z + j)));
        return [1, block, most / 448];
      }),
    tolerance: 1e-6,
  };
}

/** What the router's scores get back from the experts that were chosen: few of many, per token. */
function spreading(): Loop {
  const [rows, experts, k] = [TOKENS, 64, 6];
  const given = ids(rows * k, experts);
  return {
    name: `gradient of ${k} taken of ${experts}, ${rows} rows`,
    args: [f32(rows, experts), given, f32(rows, k)],
    fn: (scores, chosen, g) =>
      valueAndGrad((x: Tensor) =>
        sum(mul(takeAlong(sigmoid(x), reshape(chosen as Tensor, [rows, k])), g as Tensor)),
      )(scores as Tensor)[1],
    expected: (x) =>
      each(rows * experts, (i) => {
        const row = Math.floor(i / experts);
        let total = 0;
        for (let j = 0; j < k; j++)
          if (x(1, row * k + j) === i % experts) total += x(2, row * k + j);
        const s = logistic(x(0, i));
        return total * s * (1 - s);
      }),
    tolerance: 1e-5,
  };
}

function router(): Loop {
  const [rows, experts, k] = [32_768, 256, 8];
  return {
    name: `top ${k} of ${experts}, ${rows} rows`,
    args: [f32(rows, experts)],
    fn: (x) => topK(x as Tensor, k).values,
    expected: (x) =>
      some(rows, 20).flatMap((r) => {
        const row = Float64Array.from({ length: experts }, (_, c) => x(0, r * experts + c));
        return [...row.sort().reverse().slice(0, k)].map((v, i): Want => [0, r * k + i, v]);
      }),
    tolerance: 0,
  };
}

function sort(): Loop {
  const [count, experts] = [262_144, 256];
  const given = ids(count, experts);
  return {
    name: `counting sort of ${count} ids, ${experts} buckets`,
    args: [given],
    fn: (x) => {
      const { order, rank, offsets } = countingSort(x as Tensor, experts);
      return [order, rank, offsets];
    },
    expected: () => {
      const data = given.data as Int32Array;
      const order = [...data.keys()].sort((a, b) => (data[a] as number) - (data[b] as number));
      return some(count, 2000).flatMap((i): Want[] => [
        [0, i, order[i] as number],
        [1, order[i] as number, i],
      ]);
    },
    tolerance: 0,
  };
}

function permutation(): Loop {
  const [tokens, k] = [4096, 8];
  const given = ids(tokens * k, tokens);
  return {
    name: `rows to experts bf16, ${tokens} x ${WIDTH}, ${k} each`,
    args: [bf16(tokens, WIDTH), given],
    fn: (x, i) => take(x as Tensor, i as Tensor),
    expected: (x) =>
      each(tokens * k * WIDTH, (i) => x(0, x(1, Math.floor(i / WIDTH)) * WIDTH + (i % WIDTH))),
  };
}

function combination(): Loop {
  const [tokens, k] = [4096, 8];
  const given = ids(tokens * k, tokens * k);
  return {
    name: `rows from experts bf16, ${tokens} x ${WIDTH}, ${k} each`,
    args: [bf16(tokens * k, WIDTH), given, f32(tokens, k)],
    fn: (y, i, w) => {
      const rows = reshape(take(y as Tensor, i as Tensor), [tokens, k, WIDTH]);
      return cast(sum(mul(cast(rows, "f32"), expandDims(w as Tensor, 2)), 1), "bf16");
    },
    expected: (x) =>
      each(tokens * WIDTH, (i) => {
        const [t, c] = [Math.floor(i / WIDTH), i % WIDTH];
        let total = 0;
        for (let j = 0; j < k; j++) total += x(2, t * k + j) * x(0, x(1, t * k + j) * WIDTH + c);
        return total;
      }),
  };
}

/** Made one at a time: each needs the backend while it is traced. */
export function loopCases(backend: Backend): (() => Case)[] {
  const all = [
    addition(),
    narrowing(),
    transposition(),
    turnedCopy(),
    activation(false),
    activation(true),
    norm(false),
    norm(true),
    rotation(),
    loss(),
    optimiser(),
    quantisation(1, 128),
    quantisation(128, 128),
    quantisation(128, 1),
    spreading(),
    router(),
    sort(),
    permutation(),
    combination(),
  ];
  return all.map((c) => () => program(backend, c));
}
