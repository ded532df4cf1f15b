import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { dirname, join, relative, resolve, sep } from "node:path";

export interface FoundRun {
  /** Stands for the folder where its path must not be taken from outside. */
  readonly id: string;
  readonly dir: string;
  /** Short, and another for each run. */
  readonly name: string;
}

const DEEPEST = 4;
const MOST_RUNS = 500;
/** Of a run, or of what is none. */
const PASSED_OVER = new Set(["checkpoints", "node_modules"]);

/** The runs that the paths are or hold, by name. Links to folders are not followed. */
export async function findRuns(roots: readonly string[]): Promise<FoundRun[]> {
  const dirs = new Set<string>();
  for (const root of roots) await search(resolve(root), 0, dirs);
  const parent = commonParent([...dirs]);
  return [...dirs].sort().map((dir) => ({
    id: createHash("sha256").update(dir).digest("hex").slice(0, 16),
    dir,
    name: relative(parent, dir),
  }));
}

async function search(dir: string, depth: number, found: Set<string>): Promise<void> {
  if (found.size >= MOST_RUNS) return;
  if ((await isFile(join(dir, "run.json"))) || (await isFile(join(dir, "metrics.jsonl")))) {
    found.add(dir);
    return;
  }
  if (depth >= DEEPEST) return;
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => []);
  for (const entry of entries) {
    const skip = entry.name.startsWith(".") || PASSED_OVER.has(entry.name);
    if (entry.isDirectory() && !skip) await search(join(dir, entry.name), depth + 1, found);
  }
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() ?? false;
}

/** The deepest folder that holds all the folders. */
function commonParent(dirs: readonly string[]): string {
  let parent = dirname(dirs[0] ?? sep);
  for (const dir of dirs) {
    while (!isBelow(dir, parent)) parent = dirname(parent);
  }
  return parent;
}

function isBelow(dir: string, parent: string): boolean {
  const path = relative(parent, dir);
  return path !== "" && path !== ".." && !path.startsWith(`..${sep}`);
}
