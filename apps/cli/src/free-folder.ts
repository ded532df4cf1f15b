import { lstat } from "node:fs/promises";

/**
 * The folder that a command may make: the one asked for, which must not exist, or else `usual`,
 * `usual`-2, `usual`-3 …, the first that is free.
 * @throws Error when the one asked for exists
 */
export async function freeFolder(asked: string | undefined, usual: string): Promise<string> {
  if (asked !== undefined) {
    if (await exists(asked)) throw new Error(`${asked} exists already; give another --out`);
    return asked;
  }
  for (let n = 1; ; n++) {
    const path = n === 1 ? usual : `${usual}-${n}`;
    if (!(await exists(path))) return path;
  }
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return false;
      throw new Error(`cannot look at ${path}`, { cause: error });
    },
  );
}
