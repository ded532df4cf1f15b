/** Which backend a command computes on. */
import { wasmBackend } from "@dsv3/backend-wasm";
import type { Backend } from "@dsv3/tensor";

const CHOICES = ["auto", "wasm", "cuda"] as const;
export type BackendChoice = (typeof CHOICES)[number];

export const backendFlag: {
  readonly type: "choice";
  readonly choices: typeof CHOICES;
  readonly help: string;
  readonly default: "auto";
} = {
  type: "choice",
  choices: CHOICES,
  help: "what computes: an NVIDIA GPU (cuda), the processor (wasm), or the first of them that is there",
  default: "auto",
};

/**
 * Opens the backend that `--backend` names.
 * @throws CudaUnavailableError for "cuda" where it is not to be had, saying what to install
 */
export async function openBackend(choice: BackendChoice): Promise<Backend> {
  const processor = () => wasmBackend({ wideVectors: true });
  if (choice === "wasm") return processor();
  // Loaded on demand: it brings a native module along.
  const { cudaAvailable, cudaBackend } = await import("@dsv3/backend-cuda");
  return choice === "cuda" || cudaAvailable() ? cudaBackend() : processor();
}
