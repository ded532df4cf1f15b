/** A run that kill.test.ts starts and kills: `kill-child.ts DIR`. Resumes what is there. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setBackend } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { train } from "./run.ts";
import { counting, smallConfig, smallSettings } from "./testing.ts";

setBackend(referenceBackend());
const dir = process.argv[2] as string;
const resume = existsSync(join(dir, "run.json"));
const settings = { ...smallSettings, steps: 40, checkpointEvery: 1 };
await train(dir, smallConfig, settings, counting(), {
  resume,
  onWarning: (message) => process.stdout.write(`${message}\n`),
});
process.stdout.write("finished\n");
