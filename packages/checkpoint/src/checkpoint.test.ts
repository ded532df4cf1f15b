import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromF32 } from "@dsv3/tensor/dtype";
import { describe, expect, it, onTestFinished } from "vitest";
import { memoryFolder, rawFile } from "../test/memory.ts";
import { INDEX_FILE, openCheckpoint, readHeader, SINGLE_FILE } from "./checkpoint.ts";
import { CheckpointError } from "./error.ts";

const reference = join(import.meta.dirname, "../fixtures/reference");

/** A file of f32 tensors, each one element, by name. */
function file(...names: string[]): Uint8Array {
  const members = names.map(
    (name, i) => `"${name}":{"dtype":"F32","shape":[1],"data_offsets":[${4 * i},${4 * i + 4}]}`,
  );
  return rawFile(
    `{${members.join(",")}}`,
    fromF32(
      names.map((_, i) => i + 1),
      "f32",
    ),
  );
}

const index = (map: Record<string, string>): string =>
  JSON.stringify({ metadata: {}, weight_map: map });

describe("files of the reference implementation", () => {
  it("hold every dtype", async () => {
    const bytes = new Uint8Array(readFileSync(join(reference, "dtypes.safetensors")));
    const folder = memoryFolder({ [SINGLE_FILE]: bytes });
    const ckpt = await openCheckpoint(folder);
    expect((await readHeader(folder, SINGLE_FILE)).metadata).toEqual(
      new Map([
        ["format", "pt"],
        ["note", "é\n"],
      ]),
    );
    const row = [0, -0, 1, -1.5];
    const read = async (name: string) => [...(await ckpt.readF32(name))];
    expect(await read("f32")).toEqual([...row, 448, -57344, 2 ** -9, Math.fround(Math.PI)]);
    expect(await read("f64")).toEqual([...row, 448, -57344, 2 ** -9, Math.fround(Math.PI)]);
    expect(await read("f16")).toEqual([...row, 448, -57344, 2 ** -9, 3.140625]);
    expect(await read("bf16")).toEqual([...row, 448, -57344, 2 ** -9, 3.140625]);
    expect(await read("e4m3")).toEqual([...row, 448, -448, 2 ** -9, 3.25]);
    expect(await read("e5m2")).toEqual([...row, 448, -57344, 2 ** -9, 3]);
    expect(await read("i8")).toEqual([-128, 0, 127]);
    expect(await read("u8")).toEqual([0, 255]);
    expect(await read("i32")).toEqual([-(2 ** 31), 7]);
    expect(await read("u32")).toEqual([2 ** 32]);
    expect(await read("bool")).toEqual([1, 0]);
    expect(await read("scalar")).toEqual([2.5]);
    expect(await read("empty")).toEqual([]);
    expect(await read('naïve "名"\n')).toEqual([1]);
    expect(ckpt.tensors.get("scalar")?.shape).toEqual([]);
    expect(ckpt.tensors.get("f32")?.shape).toEqual([2, 4]);

    const i64 = await ckpt.read("i64");
    expect([...new BigInt64Array(i64.buffer as ArrayBuffer)]).toEqual([
      -(2n ** 63n),
      2n ** 53n + 1n,
    ]);
    await expect(ckpt.readF32("i64")).rejects.toThrow(/"i64": i64 has no f32 form.*16 bytes/);
    await expect(ckpt.readF32("i16")).rejects.toThrow(CheckpointError);
  });

  it("hold FP8 weights, whose rows are dequantised exactly, from any row on", async () => {
    const expected = await openCheckpoint(
      memoryFolder({ [SINGLE_FILE]: readFileSync(join(reference, "fp8-expected.safetensors")) }),
    );
    const ckpt = await openCheckpoint(join(reference, "fp8"));
    expect(ckpt.config?.model_type).toBe("deepseek_v3");
    expect(ckpt.generationConfig).toBeUndefined();
    expect(ckpt.tensors.size).toBe(3);
    const want = await expected.readF32("dequantised");
    expect(await ckpt.readF32("layer.o_proj.weight")).toEqual(want);
    for (const [start, end] of [
      [0, 1],
      [15, 17],
      [17, 40],
      [32, 32],
    ] as const) {
      expect(await ckpt.readRows("layer.o_proj.weight", start, end)).toEqual(
        want.slice(start * 50, end * 50),
      );
    }
    expect([...(await ckpt.readF32("layer.norm.weight"))]).toEqual(Array(50).fill(1));
  });
});

describe("openCheckpoint", () => {
  it("reads headers only, then only the rows asked for", async () => {
    const header = '{"w":{"dtype":"F16","shape":[100,50],"data_offsets":[0,10000]}}';
    const folder = memoryFolder({ [SINGLE_FILE]: rawFile(header, 10_000) });
    const ckpt = await openCheckpoint(folder);
    expect(Math.max(...folder.reads.map(({ end }) => end))).toBe(8 + header.length);
    folder.reads.length = 0;
    expect((await ckpt.readRows("w", 10, 12)).length).toBe(100);
    const begin = 8 + header.length + 10 * 100;
    expect(folder.reads).toEqual([{ file: SINGLE_FILE, begin, end: begin + 200 }]);
  });

  it("joins shards, prefers the single file, and names strays", async () => {
    const shards = { "a.safetensors": file("x", "y"), "b.safetensors": file("z") };
    const map = { x: "a.safetensors", y: "a.safetensors", z: "b.safetensors" };
    const sharded = { ...shards, "c.safetensors": file(), [INDEX_FILE]: index(map) };
    const ckpt = await openCheckpoint(memoryFolder(sharded));
    expect(ckpt.tensors.get("z")?.file).toBe("b.safetensors");
    expect([...(await ckpt.readF32("y"))]).toEqual([2]);
    expect(ckpt.strayFiles).toEqual(["c.safetensors"]);

    const both = await openCheckpoint(memoryFolder({ ...sharded, [SINGLE_FILE]: file("w") }));
    expect([...both.tensors.keys()]).toEqual(["w"]);
    expect(both.strayFiles).toEqual(["a.safetensors", "b.safetensors", "c.safetensors"]);
  });

  it.each<[string, Record<string, Uint8Array | string>, RegExp]>([
    ["an empty folder", {}, /neither model\.safetensors nor model\.safetensors\.index\.json/],
    [
      "missing shards",
      {
        [INDEX_FILE]: index({ x: "a.safetensors", y: "b.safetensors" }),
        "a.safetensors": file("x"),
      },
      /1 of 2 files that are not in memory: "b\.safetensors"/,
    ],
    [
      "a tensor that the index forgets",
      { [INDEX_FILE]: index({ x: "a.safetensors" }), "a.safetensors": file("x", "y") },
      /^a\.safetensors: tensor "y": holds tensors that .* does not list: "y"/,
    ],
    [
      "a tensor that no file holds",
      {
        [INDEX_FILE]: index({ x: "a.safetensors", y: "a.safetensors" }),
        "a.safetensors": file("x"),
      },
      /^model\.safetensors\.index\.json: tensor "y": lists tensors that its files do not hold/,
    ],
    [
      "a tensor in another file than the index says",
      {
        [INDEX_FILE]: index({ x: "a.safetensors", y: "b.safetensors" }),
        "a.safetensors": file("x", "y"),
        "b.safetensors": file("y"),
      },
      /tensor "y": is here, but .* says that it is in "b\.safetensors"/,
    ],
    [
      "a name twice in the index",
      { [INDEX_FILE]: '{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}' },
      /tensor "x": is in weight_map twice/,
    ],
    ["an index without weight_map", { [INDEX_FILE]: "{}" }, /has no weight_map/],
    [
      "an index that is cut",
      { [INDEX_FILE]: '{"weight_map":{"x":' },
      /index\.json: bad JSON: .*the end/,
    ],
    ["an index that is empty", { [INDEX_FILE]: "" }, /expected "{"/],
    ["a file name that is no string", { [INDEX_FILE]: '{"weight_map":{"x":1}}' }, /a string/],
    ["a bad config", { [SINGLE_FILE]: file("x"), "config.json": "{" }, /^config\.json: bad JSON/],
    ["a config that is a list", { [SINGLE_FILE]: file("x"), "config.json": "[]" }, /JSON object/],
    [
      "a damaged file",
      { [SINGLE_FILE]: file("x").slice(0, 50) },
      /^model\.safetensors: .*truncated/,
    ],
  ])("refuses %s", async (_, files, message) => {
    await expect(openCheckpoint(memoryFolder(files))).rejects.toThrow(CheckpointError);
    await expect(openCheckpoint(memoryFolder(files))).rejects.toThrow(message);
  });

  it.each([
    "../a.safetensors",
    "/etc/a.safetensors",
    "s/a.safetensors",
    "..\\a.safetensors",
    "c:a.safetensors",
    "a\0.safetensors",
    "..",
    "",
    "passwd",
  ])("refuses %j as a shard's name, and reads nothing", async (name) => {
    const folder = memoryFolder({ [INDEX_FILE]: index({ x: name }) });
    await expect(openCheckpoint(folder)).rejects.toThrow(/not the name of a \.safetensors file/);
    expect(folder.reads.every(({ file }) => file === INDEX_FILE)).toBe(true);
  });

  it("says what is wrong with a path", async () => {
    const dir = mkdtempSync(join(tmpdir(), "checkpoint-"));
    onTestFinished(() => rmSync(dir, { recursive: true }));
    await expect(openCheckpoint(join(dir, "none"))).rejects.toThrow(
      /none: .*no such file or folder/,
    );
    await expect(openCheckpoint(import.meta.filename)).rejects.toThrow(
      /is a file; give the folder/,
    );
  });
});

describe("readRows", () => {
  it("refuses unknown tensors and rows that are not there", async () => {
    const ckpt = await openCheckpoint(memoryFolder({ [SINGLE_FILE]: file("x") }));
    await expect(ckpt.read("y")).rejects.toThrow(
      /tensor "y": is not among the 1 tensors of memory/,
    );
    for (const [start, end] of [
      [0, 2],
      [-1, 1],
      [1, 0],
      [0, 0.5],
    ] as const) {
      await expect(ckpt.readRows("x", start, end)).rejects.toThrow(/not within its 1 rows/);
    }
  });
});

describe("FP8 scales", () => {
  const fp8 = (scale: string, scaleBytes: number, config: unknown = {}) =>
    openCheckpoint(
      memoryFolder({
        [SINGLE_FILE]: rawFile(
          `{"w":{"dtype":"F8_E4M3","shape":[130,4],"data_offsets":[0,520]}${scale}}`,
          520 + scaleBytes,
        ),
        "config.json": JSON.stringify({ quantization_config: config }),
      }),
    );
  const scale = (name: string, shape: string, end: number, dtype = "F32") =>
    `,"${name}":{"dtype":"${dtype}","shape":${shape},"data_offsets":[520,${end}]}`;

  it("default to blocks of 128 by 128", async () => {
    const ckpt = await fp8(scale("w_scale_inv", "[2,1]", 528), 8);
    expect(ckpt.scaleOf("w")).toEqual({ name: "w_scale_inv", block: [128, 128] });
    expect(ckpt.scaleOf("w_scale_inv")).toBeUndefined();
  });

  it("may be absent only where config.json does not promise them", async () => {
    expect((await (await fp8("", 0)).readF32("w")).length).toBe(520);
    const promised = await fp8("", 0, { quant_method: "fp8" });
    await expect(promised.readF32("w")).rejects.toThrow(
      /"w": is f8e4m3.*"w_scale_inv", are missing/,
    );
  });

  it("must fit the weight", async () => {
    const wrong = await fp8(scale("w_scale_inv", "[1,2]", 528), 8);
    await expect(wrong.readF32("w")).rejects.toThrow(
      /needs f32 scales of \[2,1\], but .* f32 \[1,2\]/,
    );
    const half = await fp8(scale("w_scale_inv", "[2,1]", 524, "BF16"), 4);
    await expect(half.readF32("w")).rejects.toThrow(/is bf16 \[2,1\]/);
    for (const block of [[0, 1], [128], "128", [1.5, 2], null]) {
      const ckpt = await fp8(scale("w_scale_inv", "[2,1]", 528), 8, { weight_block_size: block });
      if (block === null) expect(ckpt.scaleOf("w")?.block).toEqual([128, 128]);
      else
        await expect(ckpt.readF32("w")).rejects.toThrow(/weight_block_size must be two positive/);
    }
  });
});
