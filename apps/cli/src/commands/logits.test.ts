import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseHeader } from "@dsv3/checkpoint";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

const fixtures = join(import.meta.dirname, "../../../../packages/model/src/__fixtures__");
const base = join(fixtures, "base");

let temporary: string;
let out: string;
beforeEach(async () => {
  temporary = await mkdtemp(join(tmpdir(), "dsv3-logits-"));
  out = join(temporary, "logits.safetensors");
});
afterEach(() => rm(temporary, { recursive: true }));

async function logits(argv: string[], io: ReturnType<typeof fakeIo> = fakeIo()) {
  const code = await runCli(["logits", ...argv], io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

type Read = Map<string, { shape: readonly number[]; data: number[] }>;

async function readTensors(path: string): Promise<Read> {
  const file = await readFile(path);
  const { tensors } = parseHeader(file, file.length, path);
  return new Map(
    [...tensors].map(([name, { dtype, shape, offset, bytes }]) => {
      const start = file.byteOffset + offset;
      const buffer = file.buffer.slice(start, start + bytes);
      const data =
        dtype === "i64"
          ? Array.from(new BigInt64Array(buffer), Number)
          : [...new Float32Array(buffer)];
      return [name, { shape, data }];
    }),
  );
}

async function idsFile(content: unknown): Promise<string> {
  const file = join(temporary, "ids.json");
  await writeFile(file, typeof content === "string" ? content : JSON.stringify(content));
  return file;
}

/** The reference's results, and its token ids as a file. */
async function reference(fixture: string): Promise<{ expected: Read; ids: string }> {
  const expected = await readTensors(join(fixtures, fixture, "expected.safetensors"));
  const { shape, data } = expected.get("input_ids")!;
  const rows = Array.from({ length: shape[0]! }, (_, b) =>
    data.slice(b * shape[1]!, (b + 1) * shape[1]!),
  );
  return { expected, ids: await idsFile(rows) };
}

/** The largest difference, over the positions that the expected tensor has. */
function maxError(actual: Read, name: string, expected: Read, expectedName = name): number {
  const a = actual.get(name)!;
  const e = expected.get(expectedName)!;
  const [B, T, V] = e.shape as [number, number, number];
  let worst = 0;
  for (let b = 0; b < B; b++) {
    for (let i = 0; i < T * V; i++) {
      const difference = Math.abs(a.data[b * a.shape[1]! * V + i]! - e.data[b * T * V + i]!);
      worst = Math.max(worst, Number.isNaN(difference) ? Infinity : difference);
    }
  }
  return worst;
}

describe("against transformers", () => {
  it("base", async () => {
    const { expected, ids } = await reference("base");
    const result = await logits(["--model", base, "--input-ids", ids, "--out", out, "--json"]);
    expect(result).toMatchObject({ code: 0, err: "" });
    const written = await readTensors(out);
    const { shape } = expected.get("logits")!;
    expect(JSON.parse(result.out)).toEqual({ out, shapes: { logits: shape } });
    expect([...written.keys()]).toEqual(["logits"]);
    expect(written.get("logits")!.shape).toEqual(shape);
    expect(maxError(written, "logits", expected)).toBeLessThan(2e-4);
    expect(await readdir(temporary)).toEqual(["ids.json", "logits.safetensors"]);
  });

  it.each([
    [[], "mtp_logits"],
    [["--mtp-reading", "pre-norm"], "mtp_logits"],
    [["--mtp-reading", "post-norm"], "mtp_logits_from_normed"],
  ])("mtp %j", async (reading, name) => {
    const { expected, ids } = await reference("mtp");
    const model = join(fixtures, "mtp");
    const argv = ["--model", model, "--input-ids", ids, "--out", out, "--mtp", ...reading];
    expect(await logits(argv)).toMatchObject({ code: 0, err: "" });
    const written = await readTensors(out);
    expect(maxError(written, "logits", expected)).toBeLessThan(2e-4);
    expect(written.get("mtp_logits")!.shape).toEqual(expected.get(name)!.shape);
    expect(maxError(written, "mtp_logits", expected, name)).toBeLessThan(2e-4);
  });
});

describe("the output file", () => {
  it("is replaced only when told", async () => {
    await writeFile(out, "precious");
    const argv = ["--model", base, "--input-ids", await idsFile([[1, 2, 3]]), "--out", out];
    expect(await logits(argv)).toMatchObject({
      code: 1,
      out: "",
      err: `dsv3 logits: ${out} exists already; give another --out, or --overwrite\n`,
    });
    expect(await readFile(out, "utf8")).toBe("precious");
    const { code, out: said } = await logits([...argv, "--overwrite"]);
    expect({ code, said }).toEqual({ code: 0, said: expect.stringContaining(": logits [1, 3, ") });
    expect((await readTensors(out)).get("logits")!.shape.slice(0, 2)).toEqual([1, 3]);
  });

  it("is no folder or device, whatever was told, and nothing is left beside it", async () => {
    const argv = ["--model", base, "--input-ids", await idsFile([[1]]), "--overwrite", "--out"];
    const refused = { code: 1, out: "", err: expect.stringContaining("is no file, which") };
    await mkdir(out);
    expect(await logits([...argv, out])).toMatchObject(refused);
    if (process.platform !== "win32") {
      const device = join(temporary, "device");
      await symlink("/dev/null", device);
      expect(await logits([...argv, device])).toMatchObject(refused);
      await rm(device);
    }
    expect(await readdir(temporary)).toEqual(["ids.json", "logits.safetensors"]);
    expect(await readdir(out)).toEqual([]);
  });

  it("is not written after an interrupt", async () => {
    const io = fakeIo();
    io.interrupt();
    const argv = ["--model", base, "--input-ids", await idsFile([[1]]), "--out", out];
    expect((await logits(argv, io)).code).toBe(130);
    expect(await readdir(temporary)).toEqual(["ids.json"]);
  });
});

it.each<[message: string, content: unknown, more: string[]]>([
  ["cannot read token ids from", "[[1, 2], [3", []],
  ["expected an array of rows", {}, []],
  ["expected an array of rows", [], []],
  ["row 0 is no array", [1, 2], []],
  ["row 0 is empty", [[]], []],
  ["row 1 has 1 ids and row 0 has 2", [[1, 2], [3]], []],
  [
    'row 1: token 1 is "4", not a number',
    [
      [1, 2],
      [3, "4"],
    ],
    [],
  ],
  [
    "row 1: token 1 is 1000000, outside the vocabulary of",
    [
      [1, 2],
      [3, 1e6],
    ],
    [],
  ],
  ["row 0: token 1 is -1, outside the vocabulary of", [[1, -1]], []],
  ["row 0: token 0 is 1.5, outside the vocabulary of", [[1.5]], []],
  ["exceed the model's context of", [Array(100_000).fill(1)], []],
  ["has no MTP modules; leave out --mtp", [[1, 2]], ["--mtp"]],
  [
    "too short for --mtp, which needs at least 2",
    [[1]],
    ["--mtp", "--model", join(fixtures, "mtp")],
  ],
  ["/nowhere", [[1]], ["--model", "/nowhere"]],
])("refuses: %s", async (message, content, more) => {
  const model = more.includes("--model") ? [] : ["--model", base];
  const ids = await idsFile(content);
  const result = await logits([...model, "--input-ids", ids, "--out", out, ...more]);
  expect(result).toMatchObject({ code: 1, out: "", err: expect.stringContaining(message) });
  expect(await readdir(temporary)).toEqual(["ids.json"]);
});

it("--mtp-reading without --mtp is a wrong command line", async () => {
  const argv = ["--model", base, "--input-ids", "i", "--out", out, "--mtp-reading", "pre-norm"];
  expect(await logits(argv)).toMatchObject({
    code: 2,
    err: expect.stringContaining("--mtp-reading needs --mtp"),
  });
});
