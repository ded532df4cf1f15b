import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import fs from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it, onTestFinished } from "vitest";
import { openCheckpoint } from "./checkpoint.ts";
import { CheckpointError } from "./error.ts";
import { type FileSystem, nodeFolder, stageFolder } from "./node-folder.ts";
import { type TensorSource, writeCheckpoint } from "./write.ts";

function temporary(): string {
  const dir = mkdtempSync(join(tmpdir(), "checkpoint-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  return dir;
}

const tensor = (value: number): TensorSource => ({
  name: "w",
  dtype: "u8",
  shape: [3],
  data: Uint8Array.of(value, value, value),
});
const version = async (dir: string): Promise<unknown> =>
  (await openCheckpoint(dir)).config?.version;
const write = (dir: string, value: number, overwrite = false): Promise<void> =>
  writeCheckpoint(dir, [tensor(value)], { config: { version: value }, overwrite });

/** The real file system, whose `fail`th call from now on fails as a full disk does. */
function failingFileSystem(fail: number): { io: FileSystem; calls: string[] } {
  const calls: string[] = [];
  const guard =
    <A extends unknown[], R>(name: string, call: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      // What cleans up must not need a working disk to be tested.
      if (name !== "rm" && calls.push(name) === fail) {
        throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
      }
      return call(...args);
    };
  const io = Object.fromEntries(
    (["lstat", "mkdir", "readdir", "rename", "rm", "stat"] as const).map((name) => [
      name,
      guard(name, fs[name] as (...args: unknown[]) => Promise<unknown>),
    ]),
  ) as unknown as FileSystem;
  io.open = guard("open", async (...args: Parameters<typeof fs.open>) => {
    const handle = await fs.open(...args);
    for (const name of ["write", "sync"] as const) {
      const call = handle[name].bind(handle) as (...args: unknown[]) => Promise<unknown>;
      Object.assign(handle, { [name]: guard(name, call) });
    }
    return handle;
  });
  return { io, calls };
}

describe("a folder on disk", () => {
  it("is written whole, readable, and leaves nothing beside it", async () => {
    const dir = temporary();
    await write(join(dir, "deep/er/model"), 7);
    expect(readdirSync(join(dir, "deep/er"))).toEqual(["model"]);
    const ckpt = await openCheckpoint(join(dir, "deep/er/model"));
    expect(await ckpt.read("w")).toEqual(Uint8Array.of(7, 7, 7));
  });

  it("is never replaced unasked, not even an empty one", async () => {
    const dir = temporary();
    await expect(write(dir, 1)).rejects.toThrow(/exists already; choose another folder, or ask to/);
    expect(readdirSync(dir)).toEqual([]);
  });

  it("is replaced when asked, files of the old one included", async () => {
    const dir = temporary();
    const model = join(dir, "model");
    await write(model, 1, true);
    writeFileSync(join(model, "old.txt"), "");
    await write(model, 2, true);
    expect(await version(model)).toBe(2);
    expect(readdirSync(dir)).toEqual(["model"]);
    expect(readdirSync(model)).toEqual(["config.json", "model.safetensors"]);
  });

  it("is not replaced when it is no model folder", async () => {
    const dir = temporary();
    writeFileSync(join(dir, "thesis.txt"), "");
    await expect(write(dir, 1, true)).rejects.toThrow(
      /will not be overwritten: it holds no config/,
    );
    expect(readdirSync(dir)).toEqual(["thesis.txt"]);
    await expect(write(join(dir, "thesis.txt"), 1, true)).rejects.toThrow(/it is not a folder/);
  });

  it("that appears during the writing is left alone", async () => {
    const dir = temporary();
    const model = join(dir, "model");
    const staging = await stageFolder(model, false);
    mkdirSync(model);
    await expect(writeCheckpoint(staging, [tensor(1)])).rejects.toThrow(/appeared while/);
    expect(readdirSync(model)).toEqual([]);
    expect(readdirSync(dir)).toEqual(["model"]);
  });

  it("whose data source fails is removed", async () => {
    const dir = temporary();
    const broken = { ...tensor(1), data: () => Promise.reject(new Error("device lost")) };
    await expect(writeCheckpoint(join(dir, "model"), [broken])).rejects.toThrow(/device lost/);
    expect(readdirSync(dir)).toEqual([]);
  });

  it("that shrinks while it is read says so", async () => {
    const dir = temporary();
    await write(join(dir, "model"), 1);
    const ckpt = await openCheckpoint(join(dir, "model"));
    const path = join(dir, "model/model.safetensors");
    truncateSync(path, readFileSync(path).length - 1);
    await expect(ckpt.read("w")).rejects.toThrow(
      /model\.safetensors: ends at byte .* changed while/,
    );
    rmSync(path);
    await expect(ckpt.read("w")).rejects.toThrow(CheckpointError);
  });

  it("may hold folders, but no folder where a file should be", async () => {
    const dir = temporary();
    mkdirSync(join(dir, "config.json"));
    await write(join(dir, "model"), 1);
    const folder = await nodeFolder(dir);
    expect(await folder.list()).toEqual([]);
    await expect(folder.size("config.json")).rejects.toThrow(/is not a regular file/);
  });
});

describe("a full disk", () => {
  for (const overwrite of [false, true]) {
    it(`at any moment leaves nothing half-written (overwrite: ${overwrite})`, async () => {
      let failures = 0;
      for (let fail = 1; ; fail++) {
        const dir = temporary();
        const model = join(dir, "model");
        if (overwrite) await write(model, 1);
        const { io, calls } = failingFileSystem(fail);
        const error = await stageFolder(model, overwrite, io)
          .then((staging) => writeCheckpoint(staging, [tensor(2)], { config: { version: 2 } }))
          .then(
            () => undefined,
            (error) => error,
          );
        if (calls.length < fail) {
          expect(error).toBeUndefined();
          expect(await version(model)).toBe(2);
          break;
        }
        failures++;
        expect(error, calls.at(-1)).toBeInstanceOf(CheckpointError);
        expect(error.message).toMatch(/cannot .*: no space left on the disk/);
        const present = existsSync(model);
        expect(present || !overwrite).toBe(true);
        // Only the very last sync may fail with the new folder already in place.
        if (present) expect([1, 2]).toContain(await version(model));
        expect(readdirSync(dir).filter((name) => name.includes("partial"))).toEqual([]);
      }
      expect(failures).toBeGreaterThan(10);
    });
  }
});

describe("kill -9", () => {
  it("in the middle of a write leaves the old folder whole, and does not stand in the way", async () => {
    const dir = temporary();
    const model = join(dir, "model");
    await write(model, 1);
    const script = fileURLToPath(new URL("../test/write-forever.ts", import.meta.url));
    const child = spawn(process.execPath, [script, model], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data"); // it is writing
    child.kill("SIGKILL");
    expect((await once(child, "exit"))[1]).toBe("SIGKILL");

    expect(await version(model)).toBe(1);
    const [partial] = readdirSync(dir);
    expect(partial).toMatch(/^\.model\.partial-\d+-/);
    await write(model, 2, true);
    expect(await version(model)).toBe(2);
  });

  it("between the two renames of an overwrite is explained, with the way back", async () => {
    const dir = temporary();
    const model = join(dir, "model");
    await write(model, 1);
    renameSync(model, join(dir, ".model.previous-1-ab"));
    await expect(openCheckpoint(model)).rejects.toThrow(
      /is missing, but an overwrite .* left its contents in \.model\.previous-1-ab/,
    );
  });
});
