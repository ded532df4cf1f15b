import { key, setBackend, sliceAxis, type Tensor, tensor } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, expect, test } from "vitest";
import { forwardCached, latentCaches, mtpCached } from "./decode.ts";
import { forward } from "./model.ts";
import { initParams, type ModelParams } from "./params.ts";
import { PRESETS } from "./presets.ts";

const config = {
  ...PRESETS.tiny,
  vocabSize: 64,
  hiddenSize: 16,
  intermediateSize: 24,
  moeIntermediateSize: 8,
  numHiddenLayers: 2,
  numNextnPredictLayers: 2,
  numAttentionHeads: 2,
};
let params: ModelParams;
beforeAll(() => {
  setBackend(referenceBackend());
  params = initParams(config, key(11));
});
const ids = () => tensor([[5, 60, 3, 3, 17, 42, 9, 1]] as number[][], { dtype: "i32" });
const columns = (t: Tensor, start: number, end: number) => sliceAxis(t, 1, start, end);

async function expectClose(actual: Tensor, expected: Tensor, tolerance = 2e-5) {
  expect(actual.shape).toEqual(expected.shape);
  const [a, b] = [await actual.data(), await expected.data()];
  for (const [i, y] of (b as Float32Array).entries()) {
    expect(Math.abs(a[i]! - y)).toBeLessThan(tolerance);
  }
}

test.each(["expanded", "absorbed"] as const)(
  "prefill in chunks, then tokens one by one, give the logits of the whole (%s)",
  async (form) => {
    const whole = forward(params, ids(), config).logits;
    let caches = latentCaches(config, 1, 10);
    let done = 0;
    for (const tokens of [3, 3, 1, 1]) {
      const lengths = tensor([done + tokens], { dtype: "i32" });
      const chunk = columns(ids(), done, done + tokens);
      const options = { form, logits: "all" } as const;
      const result = forwardCached(params, chunk, caches, lengths, config, options);
      await expectClose(result.logits, columns(whole, done, done + tokens));
      caches = result.caches;
      done += tokens;
    }
  },
);

// What a serving engine does when two requests begin alike.
test("a prefix shared through pages gives the same logits as a cold run", async () => {
  const whole = forward(params, ids(), config).logits;
  const pages = (table: number[][]) => tensor(table, { dtype: "i32" });
  let caches = latentCaches(config, 5, 2);
  const first = forwardCached(
    params,
    columns(ids(), 0, 6),
    caches,
    tensor([6], { dtype: "i32" }),
    config,
    {
      pages: pages([[4, 1, 0, 2]]),
    },
  );
  caches = first.caches;
  // The second request reuses pages 4 and 1 (four tokens), and computes the rest into 3 and 2.
  const second = forwardCached(
    params,
    columns(ids(), 4, 8),
    caches,
    tensor([8], { dtype: "i32" }),
    config,
    {
      pages: pages([[4, 1, 3, 2]]),
    },
  );
  await expectClose(first.logits, columns(whole, 5, 6));
  await expectClose(second.logits, columns(whole, 7, 8));
});

test("logits of the last few tokens are those of all", async () => {
  const lengths = tensor([8], { dtype: "i32" });
  const last = (logits: "all" | number | Tensor) =>
    forwardCached(params, ids(), latentCaches(config, 1, 8), lengths, config, { logits }).logits;
  await expectClose(last(3), columns(last("all"), 5, 8));
  await expectClose(last(99), last("all"));
  const third = tensor([3], { dtype: "i32" });
  await expectClose(last(third), columns(last("all"), 3, 4));
});

test("MTP modules over their own caches give the logits of the whole", async () => {
  const whole = forward(params, ids(), config, { mtp: true });
  const cache = () => latentCaches(config, 1, 8)[0]!;
  const mtpCaches = [cache(), cache()];
  let caches = latentCaches(config, 1, 8);
  let done = 0;
  for (const tokens of [4, 1, 1]) {
    const lengths = tensor([done + tokens], { dtype: "i32" });
    const main = forwardCached(
      params,
      columns(ids(), done, done + tokens),
      caches,
      lengths,
      config,
    );
    caches = main.caches;
    let hidden = main.hidden;
    for (const depth of [1, 2]) {
      const ahead = columns(ids(), done + depth, done + depth + tokens);
      const draft = mtpCached(
        params,
        depth,
        hidden,
        ahead,
        mtpCaches[depth - 1]!,
        lengths,
        config,
        {
          logits: "all",
        },
      );
      const expected = whole.mtpLogits[depth - 1]!;
      await expectClose(draft.logits, columns(expected, done, done + tokens));
      mtpCaches[depth - 1] = draft.cache;
      hidden = draft.hidden;
    }
    done += tokens;
  }
  expect(() =>
    mtpCached(params, 3, whole.logits, ids(), cache(), tensor([1], { dtype: "i32" }), config),
  ).toThrow("no MTP module of depth 3; there are 2");
});

test("bf16 computes near f32", async () => {
  const wide = forward(params, ids(), config).logits;
  const narrow = forward(params, ids(), config, { computeDtype: "bf16" });
  expect(narrow.logits.dtype).toBe("f32");
  expect(narrow.hiddenStates.map((h) => h.dtype)).toEqual(["bf16", "bf16", "bf16"]);
  await expectClose(narrow.logits, wide, 0.25);
});
