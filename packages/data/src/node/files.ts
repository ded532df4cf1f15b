/** Which files a list of paths, folders and glob patterns means. */
import { glob, readdir, stat } from "node:fs/promises";
import { join } from "node:path";

/** A file to be read. */
export interface InputFile {
  /** What messages call it. */
  readonly name: string;
  /** In bytes, as it is stored. */
  readonly size: number;
  /** Another one when the content is another. */
  readonly version: string;
  /** Where it is on this disk, fetched now if it was not there. */
  local(): Promise<string>;
}

/** Formats that are read, each alone or compressed. */
const FORMAT = /\.(txt|md|jsonl|ndjson|json)(\.(gz|xz|zst))?$|\.parquet$/i;

/** The format of a file by its name: "txt", "jsonl", "json" or "parquet". */
export function formatOf(path: string): "txt" | "jsonl" | "json" | "parquet" | undefined {
  const match = FORMAT.exec(path);
  if (!match) return undefined;
  const name = match[1]?.toLowerCase();
  if (name === undefined) return "parquet";
  if (name === "md") return "txt";
  return name === "ndjson" ? "jsonl" : (name as "txt" | "jsonl" | "json");
}

/**
 * Files in the order of the patterns, sorted within each; a folder means every readable file below
 * it. The same file twice is read once.
 * @throws Error for a pattern that means nothing, and for a named file of an unknown format
 */
export async function findFiles(patterns: readonly string[]): Promise<InputFile[]> {
  const found = new Map<string, InputFile>();
  for (const pattern of patterns) {
    const files = await expand(pattern);
    if (files.length === 0) throw new Error(`${pattern}: no file that can be read; ${KNOWN}`);
    for (const path of files) found.set(path, await localFile(path));
  }
  return [...found.values()];
}

export const KNOWN = "known are .txt, .md, .jsonl, .json (each also .gz, .xz or .zst) and .parquet";

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
