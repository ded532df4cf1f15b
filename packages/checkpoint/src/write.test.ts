import { fromF32 } from "@dsv3/tensor/dtype";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { memoryFolder, memoryStaging } from "../test/memory.ts";
import { INDEX_FILE, openCheckpoint, readHeader, SINGLE_FILE } from "./checkpoint.ts";
import { CheckpointError } from "./error.ts";
import { STORED_DTYPES, type StoredDType, tensorBytes } from "./stored-dtype.ts";
import { type TensorSource, type WriteOptions, writeCheckpoint } from "./write.ts";

async function write(tensors: TensorSource[], options?: WriteOptions) {
  const staging = memoryStaging();
  await writeCheckpoint(staging, tensors, options);
  return staging.files;
}

const text = (bytes: Uint8Array | undefined): string => new TextDecoder().decode(bytes);
const f32 = (name: string, count: number): TensorSource => ({
  name,
  dtype: "f32",
  shape: [count],
  data: fromF32(
    Array.from({ length: count }, (_, i) => i),
    "f32",
  ),
});

describe("writeCheckpoint", () => {
  it("writes one file, configs and extra files", async () => {
    const files = await write([f32("w", 3)], {
      config: { model_type: "deepseek_v3" },
      generationConfig: { eos_token_id: 1 },
      extraFiles: { "tokenizer.json": Uint8Array.of(1, 2) },
    });
    expect(Object.keys(files)).toEqual([
      SINGLE_FILE,
      "config.json",
      "generation_config.json",
      "tokenizer.json",
    ]);
    const ckpt = await openCheckpoint(memoryFolder(files));
    expect([...(await ckpt.readF32("w"))]).toEqual([0, 1, 2]);
    expect(ckpt.config).toEqual({ model_type: "deepseek_v3" });
    expect(ckpt.generationConfig).toEqual({ eos_token_id: 1 });
    expect((await readHeader(ckpt.folder, SINGLE_FILE)).metadata).toEqual(
      new Map([["format", "pt"]]),
    );
  });

  it("fills shards in order, up to their size, and indexes them as Hugging Face does", async () => {
    const files = await write([f32("b", 2), f32("a", 2), f32("big", 9), f32("c", 4), f32("d", 1)], {
      maxShardBytes: 16,
    });
    expect(Object.keys(files)).toEqual([
      ...[1, 2, 3, 4].map((i) => `model-0000${i}-of-00004.safetensors`),
      INDEX_FILE,
    ]);
    expect(text(files[INDEX_FILE])).toBe(`{
  "metadata": {
    "total_size": 72
  },
  "weight_map": {
    "a": "model-00001-of-00004.safetensors",
    "b": "model-00001-of-00004.safetensors",
    "big": "model-00002-of-00004.safetensors",
    "c": "model-00003-of-00004.safetensors",
    "d": "model-00004-of-00004.safetensors"
  }
}
`);
    const ckpt = await openCheckpoint(memoryFolder(files));
    expect([...(await ckpt.readF32("big"))]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it("reads back what it wrote, aligned, whatever the dtypes, names and sharding", async () => {
    const tensor = fc
      .record({
        name: fc.string({ unit: "binary", maxLength: 10 }).filter((n) => n !== "__metadata__"),
        dtype: fc.constantFrom(...(Object.keys(STORED_DTYPES) as StoredDType[])),
        shape: fc.array(fc.nat(3), { maxLength: 3 }).map((sizes) => [...sizes, 8]),
      })
      .chain(({ name, dtype, shape }) => {
        const bytes = tensorBytes(dtype, shape) as number;
        return fc
          .uint8Array({ minLength: bytes, maxLength: bytes })
          .map((data) => ({ name, dtype, shape, data }));
      });
    const tensors = fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(tensors, fc.integer({ min: 1, max: 500 }), async (given, maxShardBytes) => {
        const ckpt = await openCheckpoint(memoryFolder(await write(given, { maxShardBytes })));
        expect(ckpt.tensors.size).toBe(given.length);
        expect(ckpt.strayFiles).toEqual([]);
        for (const { name, dtype, shape, data } of given) {
          const info = ckpt.info(name);
          expect([info.dtype, info.shape]).toEqual([dtype, shape]);
          expect(await ckpt.read(name)).toEqual(data);
          const elementBytes = Math.floor(STORED_DTYPES[dtype].bits / 8) || 1;
          expect(info.offset % elementBytes).toBe(0);
        }
      }),
      { numRuns: 200 },
    );
  });

  it("asks for data when their turn comes, and not before", async () => {
    const log: string[] = [];
    await writeCheckpoint(
      {
        path: "log",
        async write(file, chunks) {
          for await (const chunk of chunks) log.push(`${file} ${chunk.length}`);
        },
        commit: async () => void log.push("commit"),
        discard: async () => void log.push("discard"),
      },
      [
        {
          name: "a",
          dtype: "u8",
          shape: [2],
          data: async () => {
            log.push("a");
            return Uint8Array.of(1, 2);
          },
        },
        {
          name: "b",
          dtype: "u8",
          shape: [3],
          data: (async function* () {
            log.push("b");
            yield Uint8Array.of(1);
            yield Uint8Array.of(2, 3);
          })(),
        },
      ],
    );
    expect(log).toEqual([
      `${SINGLE_FILE} 144`,
      "a",
      `${SINGLE_FILE} 2`,
      "b",
      `${SINGLE_FILE} 1`,
      `${SINGLE_FILE} 2`,
      "commit",
    ]);
  });

  const u8 = (name: string, size = 1, shape: number[] = [1]): TensorSource => ({
    name,
    dtype: "u8",
    shape,
    data: new Uint8Array(size),
  });
  it.each<[string, TensorSource[], WriteOptions, RegExp]>([
    [
      "too few bytes",
      [u8("a", 1, [2])],
      {},
      /tensor "a": its data are only 1 bytes, but shape \[2\] of u8 takes 2/,
    ],
    ["too many bytes", [u8("a", 3, [2])], {}, /tensor "a": its data are more than 2 bytes/],
    ["a name twice", [u8("a"), u8("a")], {}, /tensor "a": is given twice/],
    ["a reserved name", [u8("__metadata__")], {}, /not a name that the format allows/],
    ["a lone surrogate", [u8("\ud800")], {}, /not a name that the format allows/],
    ["a negative size", [u8("a", 1, [-1])], {}, /shape \[-1\] must hold whole numbers/],
    ["an overflow", [u8("a", 1, [2 ** 40, 2 ** 40])], {}, /overflows/],
    ["an unknown dtype", [{ ...u8("a"), dtype: "f31" as "f32" }], {}, /unknown dtype "f31"/],
    ["no room", [u8("a")], { maxShardBytes: 0 }, /maxShardBytes must be positive, not 0/],
    [
      "a path for an extra file",
      [],
      { extraFiles: { "../x": new Uint8Array(1) } },
      /leaves the folder/,
    ],
    [
      "an extra file of a taken name",
      [],
      { config: {}, extraFiles: { "config.json": new Uint8Array(1) } },
      /taken/,
    ],
  ])("refuses %s, and commits nothing", async (_, tensors, options, message) => {
    const staging = memoryStaging();
    await expect(writeCheckpoint(staging, tensors, options)).rejects.toThrow(CheckpointError);
    await expect(writeCheckpoint(staging, tensors, options)).rejects.toThrow(message);
    expect(staging.files).toEqual({});
  });
});
