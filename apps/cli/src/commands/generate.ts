import { text as readAll } from "node:stream/consumers";
import { checkTokenIds, compressParams, generateStream, loadModel } from "@dsv3/model";
import { disposeTree, setBackend } from "@dsv3/tensor";
import type { Tokenizer } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import type { Io } from "../io.ts";
import { formatCount } from "../ui/format.ts";
import { printJson } from "../ui/json.ts";
import { styler } from "../ui/style.ts";

export const generate: Command = defineCommand({
  summary: "Continues a text with a model, token by token over its latent cache.",
  flags: {
    model: { type: "string", value: "DIR", help: "a Hugging Face folder", required: true },
    prompt: {
      type: "string",
      value: "TEXT",
      help: "what to continue; from standard input unless given; plain text",
    },
    ids: {
      type: "string",
      value: "1,2,3",
      help: "token ids in place of a text, as they are; for folders without a tokenizer too",
    },
    maxNewTokens: { type: "integer", value: "N", help: "how many at most", default: 128, min: 1 },
    temperature: {
      type: "number",
      value: "T",
      help: "0 takes the likeliest token; higher is wilder",
      default: 0.8,
      min: 0,
    },
    topK: { type: "integer", value: "K", help: "sample from the K likeliest tokens alone", min: 1 },
    topP: {
      type: "number",
      value: "P",
      help: "sample from the fewest tokens that together have this probability",
      default: 0.95,
      min: 0,
      max: 1,
    },
    weights: {
      type: "choice",
      choices: ["f32", "bf16", "i8"],
      help: "what they are kept as: i8 is 8 bits with a scale for every 128, faster but rounded",
      default: "f32",
    },
    seed: { type: "integer", value: "N", help: "the same seed gives the same text", default: 0 },
    backend: backendFlag,
    json: { type: "boolean", help: "print prompt, text, ids and tokens per second as JSON" },
  },
  examples: [
    'generate --model runs/demo/model --prompt "The state of the Union is"',
    "generate --model my-model --ids 0,17,4 --temperature 0 --json",
  ],
  async run({ model, prompt, ids, weights, backend: choice, json, ...sampling }, io) {
    if (prompt !== undefined && ids !== undefined) {
      throw new UsageError("--prompt and --ids are two ways to say the same; give one");
    }
    if (sampling.topP === 0) throw new UsageError("--top-p is 0, but must be above it");
    const tokenizer = await loadTokenizer(model).catch((cause: NodeJS.ErrnoException) => {
      if (ids !== undefined) return undefined;
      const what = cause.code === "ENOENT" ? "no tokenizer in" : "cannot read the tokenizer of";
      throw new Error(`${what} ${model} (give --ids to do without)`, { cause });
    });
    const given = ids === undefined ? undefined : parseIds(ids);
    const text = given ? undefined : (prompt ?? (await readPrompt(io)));
    const backend = await openBackend(choice);
    try {
      setBackend(backend);
      const dtype = weights === "bf16" ? "bf16" : "f32";
      const { params: loaded, config } = await loadModel(model, { mtp: false, dtype });
      const params = weights === "i8" ? compressParams(loaded) : loaded;
      if (params !== loaded) disposeTree(loaded);
      const start = given ?? promptIds(text as string, tokenizer as Tokenizer, config.bosTokenId);
      checkTokenIds(config, start, given ? "--ids" : "the prompt");
      const show = json ? undefined : printer(io, tokenizer, text);
      const made: number[] = [];
      const began = performance.now();
      for await (const [id] of generateStream(params, config, [start], sampling)) {
        made.push(id as number);
        show?.token(id as number);
        // Lets a Ctrl-C in, for which a busy thread has no ear.
        await new Promise((resolve) => setImmediate(resolve));
        if (io.signal.aborted) break;
      }
      const tokensPerSecond = made.length / ((performance.now() - began) / 1000);
      if (json) {
        const continuation = tokenizer?.decode(made, { skipSpecial: true });
        const ended = config.eosTokenIds.includes(made.at(-1) as number);
        printJson(io.stdout, {
          prompt: text,
          promptIds: start,
          text: continuation,
          ids: made,
          ended,
          tokensPerSecond,
        });
      } else show?.end(made.length, tokensPerSecond);
      disposeTree(params);
    } finally {
      backend.dispose();
    }
  },
});

function parseIds(list: string): number[] {
  return list.split(",").map((word, i) => {
    const id = Number(word);
    if (!/^\s*\d+\s*$/.test(word)) {
      throw new UsageError(`--ids: "${word}" at place ${i} is no token id; expected 1,2,3`);
    }
    return id;
  });
}

async function readPrompt(io: Io): Promise<string> {
  if (!io.stdin) throw new UsageError("--prompt is missing, and nothing is piped in");
  return (await readAll(io.stdin)).replace(/\n$/, "");
}

/** A text begins as the training documents did: after the begin-of-sentence token. */
function promptIds(text: string, tokenizer: Tokenizer, bos: number | null): number[] {
  const ids = Array.from(tokenizer.encode(text, { addSpecial: true }));
  if (ids.length > 0) return ids;
  if (bos === null)
    throw new Error("the prompt is empty, and this model has no token to begin with");
  return [bos];
}

/** Writes a text as it grows; never half a character. */
function printer(io: Io, tokenizer: Tokenizer | undefined, prompt: string | undefined) {
  const style = styler(io.stdout, io.env);
  const decoder = tokenizer?.decoder({ skipSpecial: true });
  if (decoder && prompt) io.stdout.write(style("dim", prompt));
  return {
    token: (id: number) => io.stdout.write(decoder ? decoder.push(id) : `${id} `),
    end(tokens: number, rate: number) {
      io.stdout.write(`${decoder?.end() ?? ""}\n`);
      if (io.stderr.isTTY) {
        const note = `${tokens} tokens, ${formatCount(rate)} a second`;
        io.stderr.write(`${styler(io.stderr, io.env)("dim", note)}\n`);
      }
    },
  };
}
