/** A run that grpo-kill.test.ts starts and kills: `grpo-kill-child.ts DIR`. Resumes what is there. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { wasmBackend } from "@dsv3/backend-wasm";
import { setBackend } from "@dsv3/tensor";
import { grpo } from "../grpo.ts";
import { config, initial, letters, lowBytes, settings, tokenizer } from "./game.ts";

const backend = await wasmBackend({ threads: 1 });
setBackend(backend);
const dir = process.argv[2] as string;

const quick = { ...settings, questions: 1, group: 2, maxTokens: 2, steps: 6, epochs: 2 };
await grpo(dir, config, quick, letters(), {
  ...{ tokenizer, initial, rewards: [lowBytes] },
  resume: existsSync(join(dir, "run.json")),
});
process.stdout.write("finished\n");
backend.dispose();
