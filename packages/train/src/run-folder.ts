/** The folder of a run: run.json (all that is needed to start it again), metrics.jsonl, checkpoints/. */
import { mkdir, readdir, readFile, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { ModelConfig } from "@dsv3/model";
import type { RunSettings } from "./settings.ts";

/** What run.json holds. */
export interface RunRecord<Settings = RunSettings> {
  readonly settings: Settings;
  readonly config: ModelConfig;
  /** What the caller needs to find the same data again; plain JSON. */
  readonly source: unknown;
}

/**
 * What a run was started with.
 * @throws Error when the folder holds no run, or run.json is damaged
 */
export async function readRun<Settings = RunSettings>(dir: string): Promise<RunRecord<Settings>> {
  const file = join(dir, "run.json");
  const text = await readFile(file, "utf8").catch((cause) => {
    throw new Error(`${dir} holds no run to resume: run.json is missing`, { cause });
  });
  try {
    return JSON.parse(text) as RunRecord<Settings>;
  } catch (cause) {
    throw new Error(`${file} is damaged: it is no JSON`, { cause });
  }
}

/** Makes the folder, which appears with all that a run starts with or not at all. */
export async function startRun(
  dir: string,
  record: RunRecord<unknown>,
  extraFiles: Readonly<Record<string, Uint8Array>>,
): Promise<void> {
  if (await readFile(join(dir, "run.json")).catch(() => undefined)) {
    throw new Error(`${dir} holds a run already; resume it, or choose another folder`);
  }
  const others = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw new Error(`cannot train into ${dir}`, { cause: error });
  });
  if (others.length > 0) {
    throw new Error(`${dir} is not empty (it holds ${others[0]}); choose another folder`);
  }
  const path = resolve(dir);
  const unfinished = join(dirname(path), `.${basename(path)}.new`);
  // There if a start was killed.
  await rm(unfinished, { recursive: true, force: true });
  try {
    await mkdir(dirname(path), { recursive: true });
    // One by one: a recursive mkdir does not say why it failed.
    for (const folder of [unfinished, join(unfinished, "checkpoints")]) await mkdir(folder);
    for (const [name, bytes] of Object.entries(extraFiles)) {
      await writeFile(join(unfinished, name), bytes, { flush: true });
    }
    await replaceFile(join(unfinished, "run.json"), `${JSON.stringify(record, null, 2)}\n`);
    // Not every system renames over an empty folder.
    await rmdir(path).catch(() => undefined);
    await rename(unfinished, path);
  } catch (cause) {
    await rm(unfinished, { recursive: true, force: true }).catch(() => undefined);
    throw new Error(`cannot make the run's folder ${dir}`, { cause });
  }
}

/** @throws Error when the run in the folder was started with anything else */
export async function checkSameRun(dir: string, record: RunRecord<unknown>): Promise<void> {
  const saved = await readRun(dir);
  for (const part of ["settings", "config", "source"] as const) {
    // Through JSON, which leaves out what is undefined.
    if (!isDeepStrictEqual(saved[part], JSON.parse(JSON.stringify(record[part])))) {
      throw new Error(`${dir}/run.json was written with other ${part}; resume with the same`);
    }
  }
}

/** Writes a file whole or not at all. */
export async function replaceFile(file: string, text: string | Uint8Array): Promise<void> {
  await writeFile(`${file}.new`, text, { flush: true });
  await rename(`${file}.new`, file);
}
