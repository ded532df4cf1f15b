import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, it } from "vitest";

const main = join(import.meta.dirname, "main.ts");
const model = join(import.meta.dirname, "../../../packages/model/src/__fixtures__/base");

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-full-"));
  await writeFile(join(folder, "text.txt"), "the cat sat on the mat; perché no?\n".repeat(300));
  await writeFile(join(folder, "ids.json"), "[[1, 2, 3]]");
});
afterEach(() => rm(folder, { recursive: true }));

/** Runs `dsv3` where files end after so many blocks of 512 bytes, as if the disk were full then. */
async function dsv3(blocks: number, argv: string[]): Promise<{ code: number; err: string }> {
  const script = `trap '' XFSZ; ulimit -f ${blocks}; exec "$0" "$@"`;
  const words = ["-c", script, process.execPath, main, ...argv];
  try {
    const { stderr } = await promisify(execFile)("sh", words, { cwd: folder });
    return { code: 0, err: stderr };
  } catch (error) {
    const { code, stderr } = error as { code: number; stderr: string };
    return { code, err: stderr };
  }
}

const TRAIN = ["train", "--preset", "tiny", "--data", "text.txt", "--vocab-size", "300"];

it.each<[what: string, message: RegExp, blocks: number, argv: string[]]>([
  [
    "logits",
    /cannot write out: EFBIG/,
    1,
    ["logits", "--backend", "wasm", "--model", model, "--input-ids", "ids.json", "--out", "out"],
  ],
  [
    "convert",
    /cannot convert .* to out: model\.safetensors: cannot write: .*EFBIG/,
    16,
    ["convert", "--model", model, "--out", "out"],
  ],
  [
    "tokenizer train",
    /cannot write the tokenizer to a\/out: EFBIG/,
    4,
    ["tokenizer", "train", "--text", "text.txt", "--vocab-size", "300", "--out", "a/out"],
  ],
  [
    "train",
    /cannot make the run's folder out: EFBIG/,
    4,
    [
      ...TRAIN,
      "--backend",
      "wasm",
      "--steps",
      "1",
      "--batch",
      "1",
      "--length",
      "8",
      "--out",
      "out",
    ],
  ],
])(
  "%s on a full disk says so and leaves nothing",
  async (_, message, blocks, argv) => {
    const before = (await readdir(folder)).sort();
    const { code, err } = await dsv3(blocks, argv);
    expect({ code, err }).toEqual({ code: 1, err: expect.stringMatching(message) });
    expect((await readdir(folder)).sort()).toEqual(before);
  },
  60_000,
);

it("a tokenizer that was there stays as it was when the new one does not fit", async () => {
  await mkdir(join(folder, "out"));
  await writeFile(join(folder, "out", "tokenizer.json"), "old");
  const argv = ["--text", "text.txt", "--vocab-size", "300", "--out", "out", "--overwrite"];
  expect(await dsv3(4, ["tokenizer", "train", ...argv])).toMatchObject({ code: 1 });
  expect(await readdir(join(folder, "out"))).toEqual(["tokenizer.json"]);
  expect(await readFile(join(folder, "out", "tokenizer.json"), "utf8")).toBe("old");
}, 60_000);
