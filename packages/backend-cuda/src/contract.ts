/** The parts of @dsv3/tensor that this backend is written against, named in one place. */
export type {
  AttentionGradKernel,
  AttentionKernel,
  AttentionShape,
  Backend,
  BufferId,
  BufferSpec,
  CountingSortKernel,
  CumsumKernel,
  DeviceBuffer,
  Executable,
  GroupedMatmulKernel,
  HeadsView,
  Kernel,
  KernelTime,
  MatmulKernel,
  MatrixView,
  MemoryStats,
  Program,
  ScatterKernel,
  Step,
  TopKKernel,
} from "../../tensor/src/backend.ts";
export { type DType, dtypeBytes, isFloat } from "../../tensor/src/dtype.ts";
export type {
  BinaryOp,
  ComputeType,
  Expr,
  Index,
  LoopKernel,
  Reduce,
  Stage,
  Store,
  UnaryOp,
} from "../../tensor/src/loop.ts";
export { computeType } from "../../tensor/src/loop.ts";
