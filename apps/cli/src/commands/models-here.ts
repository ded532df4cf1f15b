/** Models of this machine, on a backend that is theirs alone. */
import type { Models } from "@dsv3/server";
import { type Backend, setBackend } from "@dsv3/tensor";
import { type BackendChoice, openBackend } from "../backend.ts";

export interface ModelsHere {
  readonly models: Models;
  /** Ends both. */
  close(): Promise<void>;
}

/** @param open runs with the backend set, which goes if this fails */
export async function modelsHere(
  choice: BackendChoice,
  open: (backend: Backend) => Promise<Models>,
): Promise<ModelsHere> {
  const backend = await openBackend(choice);
  try {
    setBackend(backend);
    const models = await open(backend);
    return {
      models,
      async close() {
        await models.dispose();
        backend.dispose();
      },
    };
  } catch (error) {
    backend.dispose();
    throw error;
  }
}
