// llama.cpp on a GGUF file, as one process: `node llama.mjs MODEL.gguf VOCABULARY STREAMS…` prints its figures.
import { readFileSync } from "node:fs";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { ANSWER_TOKENS, loadAll, PROMPT_TOKENS } from "../../src/serve-load.ts";

const THREADS = 2;
const [modelPath, vocabSize, ...streams] = process.argv.slice(2);
const { version } = JSON.parse(
  readFileSync(new URL("node_modules/node-llama-cpp/package.json", import.meta.url), "utf8"),
);
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath });

/** A context batches as many sequences as it was made for. */
const sequences = new Map();
async function answerFor(count) {
  if (!sequences.has(count)) {
    const context = await model.createContext({
      sequences: count,
      contextSize: PROMPT_TOKENS + ANSWER_TOKENS + 8,
      batchSize: Math.max(512, count),
      threads: { ideal: THREADS, min: THREADS },
    });
    sequences.set(
      count,
      Array.from({ length: count }, () => context.getSequence()),
    );
  }
  const free = sequences.get(count);
  return async function* answer(prompt, maxTokens) {
    const sequence = free.pop();
    try {
      await sequence.clearHistory();
      const options = { temperature: 0, yieldEogToken: true };
      let made = 0;
      for await (const token of sequence.evaluate(prompt, options)) {
        yield token;
        if (++made === maxTokens) break;
      }
    } finally {
      free.push(sequence);
    }
  };
}

const loads = await loadAll(answerFor, streams.map(Number), Number(vocabSize));
console.log(JSON.stringify({ name: `llama.cpp (node-llama-cpp ${version})`, loads }));
process.exit();
