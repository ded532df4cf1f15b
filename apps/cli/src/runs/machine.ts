import { readFile, rename, writeFile } from "node:fs/promises";
import { availableParallelism, cpus, release, totalmem, type } from "node:os";
import { join } from "node:path";
import { getBackend } from "@dsv3/tensor";

/** Where a run was computed: machine.json of its folder. */
export interface Machine {
  readonly backend: string;
  readonly processor: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly system: string;
  readonly node: string;
}

/** Notes in a run's folder that it is computed here. */
export async function noteMachine(dir: string): Promise<void> {
  const machine: Machine = {
    backend: getBackend().name,
    processor: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    system: `${type()} ${release()}`,
    node: process.version,
  };
  await replaceFile(join(dir, "machine.json"), `${JSON.stringify(machine, null, 2)}\n`);
}

/** Writes a file whole or not at all. */
export async function replaceFile(file: string, text: string): Promise<void> {
  await writeFile(`${file}.new`, text, { flush: true });
  await rename(`${file}.new`, file);
}

/** A JSON file, or undefined when it is not there or damaged. */
export async function jsonFile(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch {
    return undefined;
  }
}
