export { type CudaOptions, cudaAvailable, cudaBackend } from "./backend.ts";
export { CudaError } from "./device.ts";
export { CudaUnavailableError } from "./libraries.ts";
