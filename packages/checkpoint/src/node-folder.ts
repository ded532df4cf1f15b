/** Folders on disk. The only file of this package that needs Node. */
import { randomBytes } from "node:crypto";
import fs from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { CheckpointError } from "./error.ts";
import type { Folder, Staging } from "./folder.ts";

/** What is asked of the file system; tests give one that fails. */
export type FileSystem = Pick<
  typeof fs,
  "lstat" | "mkdir" | "open" | "readdir" | "rename" | "rm" | "stat"
>;

/** One read call may not pass 2^31 - 1 bytes. */
const MAX_READ = 2 ** 30;

const REASONS: Record<string, string> = {
  EACCES: "permission denied",
  EDQUOT: "the disk quota is used up",
  EEXIST: "it exists already",
  EFBIG: "file too large for this file system",
  EIO: "the disk failed",
  EISDIR: "it is a folder",
  EMFILE: "too many open files",
  ENOENT: "no such file or folder",
  ENOSPC: "no space left on the disk",
  ENOTDIR: "it is not a folder",
  ENOTEMPTY: "it exists already",
  EROFS: "the file system is read-only",
};

const code = (error: unknown): string | undefined => (error as NodeJS.ErrnoException)?.code;

/** Runs a file operation; its failure says what was tried on which path. */
async function attempt<T>(what: string, path: string, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (cause) {
    if (cause instanceof CheckpointError) throw cause;
    const reason = REASONS[code(cause) ?? ""] ?? (cause as Error).message;
    throw new CheckpointError(`cannot ${what}: ${reason}`, { file: path, cause });
  }
}

/** Opens a folder for reading. Files are opened for each read, so there is nothing to close. */
export async function nodeFolder(path: string): Promise<Folder> {
  const stat = await attempt("open this folder", path, () => fs.stat(path)).catch(async (error) => {
    // An overwrite that was killed between its two renames (see stageFolder).
    const siblings = await fs.readdir(dirname(resolve(path))).catch(() => []);
    const previous = siblings.find((name) =>
      name.startsWith(`.${basename(resolve(path))}.previous-`),
    );
    if (previous === undefined) throw error;
    throw new CheckpointError(
      `is missing, but an overwrite that was cut short left its contents in ${previous} beside it; ` +
        "rename that folder back",
      { file: path, cause: error },
    );
  });
  if (!stat.isDirectory()) {
    throw new CheckpointError("is a file; give the folder that holds the model", { file: path });
  }
  return {
    path,
    async list() {
      const entries = await attempt("list", path, () => fs.readdir(path, { withFileTypes: true }));
      return entries
        .filter((entry) => !entry.isDirectory())
        .map((entry) => entry.name)
        .sort();
    },
    async size(file) {
      const stat = await attempt("read", file, () =>
        fs.stat(join(path, file)).catch((error) => {
          if (code(error) === "ENOENT") return undefined;
          throw error;
        }),
      );
      if (stat && !stat.isFile()) throw new CheckpointError("is not a regular file", { file });
      return stat?.size;
    },
    read: (file, begin, end) =>
      attempt(`read bytes ${begin} to ${end}`, file, async () => {
        const handle = await fs.open(join(path, file));
        try {
          const bytes = new Uint8Array(end - begin);
          for (let at = 0; at < bytes.length; ) {
            const length = Math.min(bytes.length - at, MAX_READ);
            const { bytesRead } = await handle.read(bytes, at, length, begin + at);
            if (bytesRead === 0) {
              throw new CheckpointError(
                `ends at byte ${begin + at}, before byte ${end}; was it changed while being read?`,
                { file },
              );
            }
            at += bytesRead;
          }
          return bytes;
        } finally {
          await handle.close();
        }
      }),
  };
}

/** Asks the disk to keep a folder's list of names. Windows has no such call, and needs none. */
async function syncFolder(path: string, io: FileSystem): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await io.open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function exists(path: string, io: FileSystem): Promise<boolean> {
  return io.lstat(path).then(
    () => true,
    (error) => {
      if (code(error) === "ENOENT") return false;
      throw error;
    },
  );
}

/** Refuses to replace what is no model: `overwrite` must not empty a home folder. */
async function checkReplaceable(path: string, io: FileSystem): Promise<void> {
  const names = await io.readdir(path);
  const isModel = names.some((name) => name === "config.json" || name.endsWith(".safetensors"));
  if (names.length > 0 && !isModel) {
    throw new CheckpointError(
      "will not be overwritten: it holds no config.json and no .safetensors file, so it is no " +
        "model folder; give another path",
      { file: path },
    );
  }
}

/**
 * Starts a folder that will appear at `path`: it is written beside it, under a hidden name with
 * ".partial-", each file synced to the disk; `commit` renames it. A process killed before that
 * leaves only the hidden folder.
 *
 * With `overwrite`, an existing model folder is moved aside (".previous-"), then the new one takes
 * its name, then the old one is removed: two renames, since Node cannot exchange two folders in
 * one. Killed between them, `path` is missing and both versions are whole beside it.
 */
export async function stageFolder(
  path: string,
  overwrite: boolean,
  io: FileSystem = fs,
): Promise<Staging> {
  const target = resolve(path);
  const parent = dirname(target);
  const id = `${process.pid}-${randomBytes(4).toString("hex")}`;
  const partial = join(parent, `.${basename(target)}.partial-${id}`);
  const previous = join(parent, `.${basename(target)}.previous-${id}`);

  await attempt("create this folder", path, async () => {
    if (await exists(target, io)) {
      if (!overwrite) {
        throw new CheckpointError("exists already; choose another folder, or ask to overwrite it", {
          file: path,
        });
      }
      await checkReplaceable(target, io);
    }
    await io.mkdir(parent, { recursive: true });
    await io.mkdir(partial);
  });

  return {
    path,
    write: (file, chunks) =>
      attempt("write", file, async () => {
        const handle = await io.open(join(partial, file), "wx");
        try {
          for await (const chunk of chunks) {
            for (let at = 0; at < chunk.length; ) {
              const length = Math.min(chunk.length - at, MAX_READ);
              at += (await handle.write(chunk, at, length)).bytesWritten;
            }
          }
          await handle.sync();
        } finally {
          await handle.close();
        }
      }),
    commit: () =>
      attempt("put the finished folder in place", path, async () => {
        await syncFolder(partial, io);
        const replaces = await exists(target, io);
        if (replaces && !overwrite) {
          throw new CheckpointError("appeared while it was being written; nothing was changed", {
            file: path,
          });
        }
        if (replaces) await io.rename(target, previous);
        try {
          await io.rename(partial, target);
        } catch (error) {
          if (replaces) await io.rename(previous, target);
          throw error;
        }
        await syncFolder(parent, io);
        if (replaces) await io.rm(previous, { recursive: true });
      }),
    discard: () => io.rm(partial, { recursive: true, force: true }).catch(() => {}),
  };
}
