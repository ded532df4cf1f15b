/** Files that are whole or are not there. */
import { createHash } from "node:crypto";
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

/**
 * Writes a file under another name, waits until the disk has it, and renames it.
 * @returns the SHA-256 of its bytes, in hexadecimal
 */
export async function writeWhole(
  path: string,
  parts: readonly (Uint8Array | string)[],
): Promise<string> {
  const partial = `${path}.partial`;
  const hash = createHash("sha256");
  try {
    const file = await open(partial, "w");
    try {
      for (const part of parts) {
        hash.update(part);
        await file.writeFile(part);
      }
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
  return hash.digest("hex");
}

/** Makes the names in a folder last, where the system can (Windows cannot open folders). */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r").catch(() => undefined);
  await folder?.sync().catch(() => {});
  await folder?.close();
}
