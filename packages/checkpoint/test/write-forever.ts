/** Writes a checkpoint to the folder given, chunk after chunk, until it is killed. */
import { writeCheckpoint } from "../src/index.ts";

async function* endless(): AsyncGenerator<Uint8Array> {
  for (;;) {
    yield new Uint8Array(1000);
    process.stdout.write(".");
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

const tensors = [{ name: "w", dtype: "u8" as const, shape: [1e12], data: endless() }];
await writeCheckpoint(process.argv[2] as string, tensors, {
  config: { new: true },
  overwrite: true,
});
