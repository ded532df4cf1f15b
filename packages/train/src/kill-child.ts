/**
 * A run that kill.test.ts starts and kills: `kill-child.ts DIR`. Resumes what is there. It has two
 * phases of different shapes and an average of its weights, and saves after every step.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setBackend } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { train } from "./run.ts";
import type { RunSettings } from "./settings.ts";
import { counting, smallConfig, smallSettings } from "./testing.ts";

setBackend(referenceBackend());
const dir = process.argv[2] as string;
// Dense and without prediction further ahead, which take long to trace: fifty processes do it.
const config = { ...smallConfig, firstKDenseReplace: 1, numNextnPredictLayers: 0 };
const phase = { ...smallSettings, mtpWeight: 0, balanceWeight: 0 };
const settings: RunSettings = {
  ...{ ...phase, steps: 12, checkpointEvery: 1, emaDecay: 0.9 },
  laterPhases: [
    {
      ...{ steps: 12, batch: 1, length: 9, accumulate: 1, yarn: { factor: 2 } },
      ...{ learningRate: [{ shape: "constant", steps: 0, to: 0.004 }] },
      ...{ biasSpeed: 0, mtpWeight: 0, balanceWeight: 0 },
    },
  ],
};
await train(dir, config, settings, counting(), {
  resume: existsSync(join(dir, "run.json")),
  onWarning: (message) => process.stdout.write(`${message}\n`),
});
process.stdout.write("finished\n");
