export type * from "./backend.ts";
export {
  type Compiled,
  type CompiledProgram,
  type CompileOptions,
  compile,
  type ProfileRow,
} from "./compile.ts";
export {
  DTYPES,
  type DType,
  dtypeBytes,
  fromF32,
  isFloat,
  type TypedView,
  toF32,
  typedView,
} from "./dtype.ts";
export { type Fp8Matrix, inFp8, quantizeFp8 } from "./fp8.ts";
export { customGradient, grad, remat, valueAndGrad } from "./grad.ts";
export type * from "./loop.ts";
export { computeType } from "./loop.ts";
export * from "./nn.ts";
export { type AttentionOptions, attention } from "./ops/attention.ts";
export { full, iota, ones, zeros } from "./ops/create.ts";
export { countingSort, cumsum, scatter, take, takeAlong, topK } from "./ops/indexed.ts";
export {
  type BlockScale,
  dequantize,
  type GroupedMatmulOptions,
  groupedMatmul,
  type MatmulOptions,
  matmul,
} from "./ops/matrix.ts";
export {
  abs,
  add,
  and,
  bitcast,
  cast,
  ceil,
  cos,
  div,
  eq,
  exp,
  floor,
  ge,
  gt,
  le,
  log,
  lt,
  maximum,
  minimum,
  mul,
  ne,
  neg,
  not,
  type Operand,
  or,
  rem,
  round,
  rsqrt,
  shl,
  shr,
  sigmoid,
  silu,
  sin,
  sqrt,
  square,
  sub,
  tanh,
  where,
  xor,
} from "./ops/pointwise.ts";
export { type Axes, argmax, logSumExp, max, mean, min, softmax, sum } from "./ops/reduce.ts";
export {
  broadcastTo,
  concat,
  expandDims,
  flip,
  pad,
  permute,
  reshape,
  slice,
  sliceAxis,
  split,
  squeeze,
  stack,
  stopGradient,
  transpose,
} from "./ops/shape.ts";
export * from "./random.ts";
export {
  fromBytes,
  getBackend,
  memory,
  type NestedNumbers,
  scope,
  setBackend,
  Tensor,
  tensor,
} from "./tensor.ts";
export { disposeTree, type Mapped, type Tree, treeLeaves, treeMap, treePaths } from "./tree.ts";
