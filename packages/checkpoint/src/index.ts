export { Checkpoint, type Json, openCheckpoint, readHeader } from "./checkpoint.ts";
export { type ConvertOptions, convertCheckpoint } from "./convert.ts";
export { CheckpointError } from "./error.ts";
export type { Folder, Staging } from "./folder.ts";
export {
  dequantizeFp8Blocks,
  FP8_BLOCK,
  type Fp8Blocks,
  type MatrixShape,
  quantizeFp8Blocks,
  scaleShape,
} from "./fp8.ts";
export { type Header, parseHeader, type TensorInfo } from "./header.ts";
export { STORED_DTYPES, type StoredDType } from "./stored-dtype.ts";
export { type TensorSource, type WriteOptions, writeCheckpoint } from "./write.ts";
