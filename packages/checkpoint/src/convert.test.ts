import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromF32, roundTo } from "@dsv3/tensor/dtype";
import { describe, expect, it, onTestFinished } from "vitest";
import { memoryFolder, memoryStaging } from "../test/memory.ts";
import { openCheckpoint } from "./checkpoint.ts";
import { type ConvertOptions, convertCheckpoint } from "./convert.ts";
import type { Folder } from "./folder.ts";
import { quantizeFp8Blocks } from "./fp8.ts";
import { formatHeader } from "./header.ts";
import { type TensorSource, writeCheckpoint } from "./write.ts";

const f32 = (name: string, ...shape: number[]): TensorSource => ({
  name,
  dtype: "f32",
  shape,
  data: fromF32(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i) / 3),
    "f32",
  ),
});

async function source() {
  const staging = memoryStaging();
  const tensors: TensorSource[] = [
    f32("model.embed_tokens.weight", 10, 150),
    f32("model.layers.0.self_attn.o_proj.weight", 150, 140),
    f32("model.layers.0.mlp.experts.0.up_proj.weight", 3, 150),
    f32("model.layers.0.mlp.gate.weight", 4, 150),
    f32("model.layers.0.mlp.gate.e_score_correction_bias", 4),
    f32("model.norm.weight", 150),
    { name: "steps", dtype: "i64", shape: [1], data: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) },
  ];
  await writeCheckpoint(staging, tensors, {
    config: { model_type: "deepseek_v3", torch_dtype: "float32", hidden_size: 150 },
    generationConfig: { eos_token_id: 1 },
    extraFiles: { "tokenizer.json": Uint8Array.of(123, 125) },
  });
  return memoryFolder(staging.files);
}

async function convert(from: Folder, options: ConvertOptions) {
  const staging = memoryStaging();
  await convertCheckpoint(from, staging, options);
  return memoryFolder(staging.files);
}

describe("convertCheckpoint", () => {
  it.each(["bf16", "f16"] as const)(
    "to %s rounds floats, and keeps the routing bias",
    async (dtype) => {
      const from = await openCheckpoint(await source());
      const to = await openCheckpoint(await convert(from.folder, { dtype }));
      expect([...to.tensors.keys()].sort()).toEqual([...from.tensors.keys()].sort());
      for (const { name, shape, dtype: stored } of to.tensors.values()) {
        expect(shape).toEqual(from.info(name).shape);
        if (name === "steps") {
          expect(await to.read(name)).toEqual(await from.read(name));
          continue;
        }
        const kept = name.endsWith("e_score_correction_bias");
        expect(stored).toBe(kept ? "f32" : dtype);
        const want = (await from.readF32(name)).map((x) => (kept ? x : roundTo(x, dtype)));
        expect(await to.readF32(name)).toEqual(want);
      }
      expect(to.config).toEqual({
        ...from.config,
        torch_dtype: dtype === "bf16" ? "bfloat16" : "float16",
      });
      expect(to.generationConfig).toEqual({ eos_token_id: 1 });
      expect(await to.folder.read("tokenizer.json", 0, 2)).toEqual(Uint8Array.of(123, 125));
    },
  );

  it("to fp8 stores linear weights in blocks, and the rest in bf16, as DeepSeek does", async () => {
    const from = await openCheckpoint(await source());
    const to = await openCheckpoint(await convert(from.folder, { dtype: "fp8" }));
    const dtypes = Object.fromEntries([...to.tensors.values()].map((t) => [t.name, t.dtype]));
    expect(dtypes).toEqual({
      "model.embed_tokens.weight": "bf16",
      "model.layers.0.self_attn.o_proj.weight": "f8e4m3",
      "model.layers.0.self_attn.o_proj.weight_scale_inv": "f32",
      "model.layers.0.mlp.experts.0.up_proj.weight": "f8e4m3",
      "model.layers.0.mlp.experts.0.up_proj.weight_scale_inv": "f32",
      "model.layers.0.mlp.gate.weight": "bf16",
      "model.layers.0.mlp.gate.e_score_correction_bias": "f32",
      "model.norm.weight": "bf16",
      steps: "i64",
    });
    const name = "model.layers.0.self_attn.o_proj.weight";
    const { data, scaleInv } = quantizeFp8Blocks(await from.readF32(name), [150, 140]);
    expect(await to.read(name)).toEqual(data);
    expect(await to.readF32(`${name}_scale_inv`)).toEqual(scaleInv);
    expect(to.info(`${name}_scale_inv`).shape).toEqual([2, 2]);
    expect(to.config?.torch_dtype).toBe("bfloat16");
    expect(to.config?.quantization_config).toEqual({
      activation_scheme: "dynamic",
      fmt: "e4m3",
      quant_method: "fp8",
      weight_block_size: [128, 128],
    });
  });

  it("from fp8 multiplies the scales in and drops them", async () => {
    const fp8 = await openCheckpoint(await convert(await source(), { dtype: "fp8" }));
    const to = await openCheckpoint(await convert(fp8.folder, { dtype: "f32" }));
    expect([...to.tensors.keys()].filter((name) => name.endsWith("_scale_inv"))).toEqual([]);
    const name = "model.layers.0.self_attn.o_proj.weight";
    expect(await to.readF32(name)).toEqual(await fp8.readF32(name));
    expect(to.config).not.toHaveProperty("quantization_config");
  });

  it.each(["f32", "bf16", "fp8"] as const)("to %s twice changes no bit", async (dtype) => {
    const once = await convert(await source(), { dtype });
    const twice = await convert(once, { dtype });
    expect(await twice.list()).toEqual(await once.list());
    for (const file of await once.list()) {
      const size = (await once.size(file)) as number;
      expect(await twice.read(file, 0, size)).toEqual(await once.read(file, 0, size));
    }
  });

  it("names the tensor that cannot be quantised", async () => {
    const staging = memoryStaging();
    const bad = fromF32([1, 2, NaN, 4], "f32");
    await writeCheckpoint(staging, [
      { name: "a.o_proj.weight", dtype: "f32", shape: [2, 2], data: bad },
    ]);
    await expect(convert(memoryFolder(staging.files), { dtype: "fp8" })).rejects.toThrow(
      /model\.safetensors: tensor "a\.o_proj\.weight": cannot quantise NaN at row 1, column 0/,
    );
  });

  it.each(["bf16", "fp8"] as const)(
    "to %s streams: no read grows with the tensor",
    async (dtype) => {
      // 13 million elements that exist only while they are read.
      const shape = [13_000, 1000];
      const bytes = 13_000_000 * 4;
      const start = formatHeader(
        [{ name: "m.o_proj.weight", dtype: "f32", shape, bytes }],
        {},
        "f",
      );
      let largest = 0;
      const folder: Folder = {
        path: "virtual",
        list: async () => ["model.safetensors"],
        size: async (file) => (file === "model.safetensors" ? start.length + bytes : undefined),
        read: async (_, begin, end) => {
          largest = Math.max(largest, end - begin);
          return begin < start.length ? start.slice(begin, end) : new Uint8Array(end - begin);
        },
      };
      let written = 0;
      let largestChunk = 0;
      await convertCheckpoint(
        folder,
        {
          path: "counted",
          async write(_, chunks) {
            for await (const { length } of chunks) {
              written += length;
              largestChunk = Math.max(largestChunk, length);
            }
          },
          commit: async () => {},
          discard: async () => {},
        },
        { dtype },
      );
      expect(written).toBeGreaterThan(dtype === "bf16" ? 26e6 : 13e6);
      expect(largest).toBeLessThanOrEqual(2 ** 24);
      expect(largestChunk).toBeLessThanOrEqual(2 ** 23);
    },
  );

  it("works from folder to folder, and in place when asked to overwrite", async () => {
    const dir = mkdtempSync(join(tmpdir(), "checkpoint-"));
    onTestFinished(() => rmSync(dir, { recursive: true }));
    const [model, reference] = [
      join(dir, "model"),
      join(import.meta.dirname, "../fixtures/reference/fp8"),
    ];
    const want = await (await openCheckpoint(reference)).readF32("layer.o_proj.weight");
    await convertCheckpoint(reference, model, { dtype: "f32", maxShardBytes: 5000 });
    expect((await openCheckpoint(model)).info("layer.norm.weight").dtype).toBe("f32");
    await expect(convertCheckpoint(model, model, { dtype: "f32" })).rejects.toThrow(
      /exists already/,
    );
    await convertCheckpoint(model, model, { dtype: "f32", overwrite: true });
    expect(readdirSync(model)).toEqual(["config.json", "model.safetensors"]);
    expect(await (await openCheckpoint(model)).readF32("layer.o_proj.weight")).toEqual(want);
  });
});
