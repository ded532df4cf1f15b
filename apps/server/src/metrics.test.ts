import { expect, test } from "vitest";
import { Exposition, exposeModels, Metrics } from "./metrics.ts";

test("right guesses are counted by how far ahead, through all engines of a model", () => {
  const metrics = new Metrics();
  metrics.keep({ draftDepths: [{ drafts: 9, accepted: 5 }] });
  metrics.keep({});
  const stats = {
    paused: 3,
    draftDepths: [
      { drafts: 8, accepted: 4 },
      { drafts: 6, accepted: 1 },
    ],
  };
  const out = new Exposition();
  const label = 'model_name="m"';
  exposeModels(out, [
    { label, metrics, stats, loaded: true },
    { label: 'model_name="other"', metrics: new Metrics(), stats: null, loaded: false },
  ]);
  const name = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
  const lines = out.text().split("\n");
  expect(lines.filter((line) => line.startsWith(`${name}{`))).toEqual([
    `${name}{${label},position="0"} 9`,
    `${name}{${label},position="1"} 1`,
  ]);
  expect(lines).toContain(`dsv3:num_requests_paused{${label}} 3`);
});
