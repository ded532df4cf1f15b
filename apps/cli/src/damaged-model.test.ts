import {
  copyFile,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "./cli.ts";
import { commands } from "./commands.ts";
import { fakeIo } from "./testing.ts";

const base = join(import.meta.dirname, "../../../packages/model/src/__fixtures__/base");
const WEIGHTS = "model.safetensors";
const INDEX = "model.safetensors.index.json";
const SHARD = "model-00001-of-00001.safetensors";

let model: string;
beforeEach(async () => {
  model = await mkdtemp(join(tmpdir(), "dsv3-damaged-"));
  for (const file of ["config.json", WEIGHTS]) await copyFile(join(base, file), join(model, file));
});
afterEach(() => rm(model, { recursive: true }));

async function generate(...argv: string[]) {
  const io = fakeIo();
  const line = ["generate", "--model", model, "--max-new-tokens", "1", "--backend", "wasm"];
  const code = await runCli([...line, ...argv], io, commands, "0.0.0");
  return { code, out: io.stdout.text, err: io.stderr.text };
}

type Damage = () => Promise<unknown>;
const write =
  (file: string, text: string): Damage =>
  () =>
    writeFile(join(model, file), text);
const cut =
  (file: string, length: number): Damage =>
  () =>
    truncate(join(model, file), length);
const without =
  (file: string): Damage =>
  () =>
    rm(join(model, file));

/** Fields of config.json anew; undefined leaves one out. */
const config =
  (fields: object): Damage =>
  async () => {
    const stored = JSON.parse(await readFile(join(base, "config.json"), "utf8"));
    await write("config.json", JSON.stringify({ ...stored, ...fields }))();
  };

type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };

/** The weights' header anew, over the same data and as many bytes as are put after them. */
const header =
  (change: (entries: Record<string, Entry>, end: number) => void, more = 0): Damage =>
  async () => {
    const file = await readFile(join(model, WEIGHTS));
    const start = 8 + Number(file.readBigUInt64LE());
    const entries = JSON.parse(file.toString("utf8", 8, start)) as Record<string, Entry>;
    change(entries, file.length - start);
    const text = Buffer.from(JSON.stringify(entries));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    await writeFile(
      join(model, WEIGHTS),
      Buffer.concat([length, text, file.subarray(start), Buffer.alloc(more)]),
    );
  };
const NORM = "model.norm.weight";

/** The weights as one shard, with an index. */
const index =
  (text: string): Damage =>
  async () => {
    await rename(join(model, WEIGHTS), join(model, SHARD));
    await write(INDEX, text)();
  };
const mapping = (file: string, tensor = NORM) => JSON.stringify({ weight_map: { [tensor]: file } });

describe("a damaged model is refused with its file and place:", () => {
  it.each<[message: string, damage: Damage]>([
    ["config: frobnicate: unknown field", config({ frobnicate: 3 })],
    ['config: model_type: is "llama"', config({ model_type: "llama" })],
    ["config: hidden_size: is missing", config({ hidden_size: undefined })],
    ['config: hidden_size: is "64"', config({ hidden_size: "64" })],
    ["config: num_hidden_layers: is -1", config({ num_hidden_layers: -1 })],
    ["config: n_group: 3 does not divide n_routed_experts", config({ n_group: 3 })],
    ["config: topk_group: 99 groups", config({ topk_group: 99 })],
    ["config: num_experts_per_tok: 1000 cannot be picked", config({ num_experts_per_tok: 1000 })],
    [
      "qk_rope_head_dim: must be even",
      config({ qk_rope_head_dim: 3, qk_head_dim: 19, head_dim: 3 }),
    ],
    ["has shape [256, 64], but config.json makes it [256, 128]", config({ hidden_size: 128 })],
    ["is missing (and", config({ num_hidden_layers: 9, num_nextn_predict_layers: 0 })],
    ["has no place in the model that config.json describes", config({ num_hidden_layers: 1 })],
    ["config.json: bad JSON", cut("config.json", 50)],
    ["config.json: bad JSON", cut("config.json", 0)],
    ["config.json: must hold a JSON object", write("config.json", "[]")],
    ["config.json: is not there", without("config.json")],
    [`holds neither ${WEIGHTS} nor`, without(WEIGHTS)],
    ["0 bytes are too few for a safetensors file", cut(WEIGHTS, 0)],
    ["its header should end at byte", cut(WEIGHTS, 300)],
    ["past the end of the file; truncated?", cut(WEIGHTS, 800_000)],
    ["claims a header of", write(WEIGHTS, "\xff".repeat(64))],
    [
      `tensor "${NORM}": is i32; weights are one of`,
      header((entries) => Object.assign(entries[NORM]!, { dtype: "I32" })),
    ],
    [
      `tensor "${NORM}": unknown dtype "F99"`,
      header((entries) => Object.assign(entries[NORM]!, { dtype: "F99" })),
    ],
    [
      `tensor "${NORM}": has shape [8, 8]`,
      header((entries) => Object.assign(entries[NORM]!, { shape: [8, 8] })),
    ],
    [
      `tensor "odd.weight": has no place`,
      header((entries, end) => {
        entries["odd.weight"] = { dtype: "F32", shape: [2], data_offsets: [end, end + 8] };
      }, 8),
    ],
    [
      `tensor "${NORM}": is missing`,
      header((entries) => {
        entries["model.norm.odd"] = entries[NORM]!;
        delete entries[NORM];
      }),
    ],
    [`${INDEX}: bad JSON`, index('{"weight_map": {"a')],
    [`${INDEX}: names 1 of 1 files that are not in`, index(mapping("no.safetensors"))],
    ["is not the name of a .safetensors file in this folder", index(mapping("../x.safetensors"))],
    [`holds tensors that ${INDEX} does not list`, index(mapping(SHARD, "nope"))],
  ])("%s", async (message, damage) => {
    await damage();
    const files = await readdir(model);
    const result = await generate("--ids", "1,2");
    expect(result).toMatchObject({ code: 1, out: "", err: expect.stringContaining(message) });
    expect(result.err.trim().split("\n")).toHaveLength(1);
    expect(await readdir(model)).toEqual(files);
  });

  it("and a damaged tokenizer is not called a missing one", async () => {
    expect(await generate("--prompt", "x")).toMatchObject({
      code: 1,
      err: expect.stringContaining(`no tokenizer in ${model} (give --ids to do without)`),
    });
    await write("tokenizer.json", '{"model": {"type": "BPE", "vo')();
    expect(await generate("--prompt", "x")).toMatchObject({
      code: 1,
      err: expect.stringMatching(
        /cannot read the tokenizer of .*tokenizer\.json:1:\d+: the file ends/,
      ),
    });
  });
});

describe("token ids that no vocabulary of 256 has are refused:", () => {
  it.each<[ids: string, code: number, message: string]>([
    ["1,256", 1, "--ids: token 1 is 256, outside the vocabulary of 256"],
    ["-1", 2, '"-1" at place 0 is no token id'],
    ["1.5", 2, '"1.5" at place 0 is no token id'],
    ["1e400", 2, '"1e400" at place 0 is no token id'],
    [Array(128).fill(1).join(), 1, "exceed the context of 128"],
  ])("%s", async (ids, code, message) => {
    const result = await generate(`--ids=${ids}`);
    expect(result).toMatchObject({ code, out: "", err: expect.stringContaining(message) });
  });
});
