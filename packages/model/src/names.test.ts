import { openCheckpoint } from "@dsv3/checkpoint";
import { expect, test } from "vitest";
import { parseHuggingFaceConfig } from "./hugging-face.ts";
import { namedParams } from "./names.ts";
import { PRESETS } from "./presets.ts";

const layerOf = (name: string) => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? 0);

test.each(["base", "no-q-lora", "yarn", "two-dense", "fp8", "mtp"])(
  "every tensor of %s has its place and its shape",
  async (name) => {
    const checkpoint = await openCheckpoint(
      new URL(`./__fixtures__/${name}`, import.meta.url).pathname,
    );
    const config = parseHuggingFaceConfig(checkpoint.config);
    const stored = [...checkpoint.tensors.values()].filter((t) => !t.name.endsWith("_scale_inv"));
    const shapes = new Map(stored.map((t) => [t.name, t.shape]));
    const expected = namedParams(config).flatMap(({ names, copies, shape }) =>
      [...names, ...copies].map((n) => [n, names.length > 1 ? shape.slice(1) : shape] as const),
    );
    const present =
      name === "mtp" ? expected : expected.filter(([n]) => layerOf(n) < config.numHiddenLayers);
    expect(new Map(present)).toEqual(shapes);
  },
);

test("DeepSeek-V3 has 46,183 weights on disk", () => {
  const names = namedParams(PRESETS["deepseek-v3-671b"]).flatMap((p) => [...p.names, ...p.copies]);
  expect(new Set(names).size).toBe(names.length);
  const weights = names.filter((n) => n.endsWith(".weight"));
  const biases = names.filter((n) => n.endsWith("e_score_correction_bias"));
  expect([weights.length, biases.length]).toEqual([46_183 - 59, 59]);
  expect(names).toContain("model.layers.61.shared_head.head.weight");
  expect(names).toContain("model.layers.60.mlp.experts.255.down_proj.weight");
});
