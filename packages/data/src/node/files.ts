/** Which files a list of paths, folders and glob patterns means. */
import { glob, readdir, stat } from "node:fs/promises";
import { join } from "node:path";

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
export async function findFiles(patterns: readonly string[]): Promise<string[]> {
  const found = new Set<string>();
  for (const pattern of patterns) {
    const files = await expand(pattern);
    if (files.length === 0) throw new Error(`${pattern}: no file that can be read; ${known}`);
    for (const file of files) found.add(file);
  }
  return [...found];
}

const known = "known are .txt, .md, .jsonl, .json (each also .gz, .xz or .zst) and .parquet";

async function expand(pattern: string): Promise<string[]> {
  const info = await stat(pattern).catch(() => undefined);
  if (info?.isDirectory()) {
    const names = await readdir(pattern, { recursive: true });
    return names
      .filter((name) => formatOf(name))
      .map((name) => join(pattern, name))
      .sort();
  }
  if (info) {
    if (!formatOf(pattern)) throw new Error(`${pattern}: unknown format; ${known}`);
    return [pattern];
  }
  if (!/[*?[{]/.test(pattern)) throw new Error(`${pattern}: no such file or folder`);
  const matches: string[] = [];
  for await (const path of glob(pattern)) if (formatOf(path)) matches.push(path);
  return matches.sort();
}
