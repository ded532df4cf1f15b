/** Which files a list of paths, folders and glob patterns means. */
import { glob, readdir, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { hubFiles, hubOptions, isHubName } from "./hub.ts";
import { formatOf, type InputFile, KNOWN } from "./input-file.ts";

/**
 * Files in the order of the patterns, sorted within each; a folder means every readable file below
 * it, and `hf:owner/name` a dataset of the Hugging Face Hub. The same file twice is read once.
 * @throws Error for a pattern that means nothing, and for a named file of an unknown format
 */
export async function findFiles(patterns: readonly string[]): Promise<InputFile[]> {
  const found = new Map<string, InputFile>();
  for (const pattern of patterns) {
    if (isHubName(pattern)) {
      for (const file of await hubFiles(pattern, hubOptions())) found.set(file.name, file);
      continue;
    }
    const files = await expand(pattern);
    if (files.length === 0) throw new Error(`${pattern}: no file that can be read; ${KNOWN}`);
    for (const path of files) found.set(path, await localFile(path));
  }
  return [...found.values()];
}

/**
 * Names that mean the same from another folder and at another time: absolute paths, and files of the
 * Hub by their commit.
 * @throws Error for a name of the Hub that means nothing
 */
export async function pinNames(patterns: readonly string[]): Promise<string[]> {
  const pinned: string[] = [];
  for (const pattern of patterns) {
    if (!isHubName(pattern)) pinned.push(resolve(pattern));
    else pinned.push(...(await hubFiles(pattern, hubOptions())).map(({ name }) => name));
  }
  return pinned;
}

async function localFile(path: string): Promise<InputFile> {
  const { size, mtimeMs } = await stat(path);
  return { name: path, size, version: `${size} bytes of ${mtimeMs}`, local: async () => path };
}

async function expand(pattern: string): Promise<string[]> {
  const info = await stat(pattern).catch(() => undefined);
  if (info?.isDirectory()) {
    const entries = await readdir(pattern, { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => !entry.isDirectory() && formatOf(entry.name))
      .map(({ parentPath, name }) => join(parentPath, name))
      .sort();
  }
  if (info) {
    if (!formatOf(pattern)) throw new Error(`${pattern}: unknown format; ${KNOWN}`);
    return [pattern];
  }
  if (!/[*?[{]/.test(pattern)) throw new Error(`${pattern}: no such file or folder`);
  const matches: string[] = [];
  for await (const path of glob(pattern)) if (formatOf(path)) matches.push(path);
  return matches.sort();
}
