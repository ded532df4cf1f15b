import { readFile } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { loadModel } from "@dsv3/model";
import { Engine } from "@dsv3/serve";
import { createApp, listen } from "@dsv3/server";
import { disposeTree, setBackend } from "@dsv3/tensor";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { describeError, UsageError } from "../errors.ts";
import type { Io } from "../io.ts";

export const serve: Command = defineCommand({
  summary: "Serves a model over HTTP to OpenAI's clients, until it is stopped.",
  flags: {
    model: { type: "string", value: "DIR", help: "a Hugging Face folder", required: true },
    name: {
      type: "string",
      value: "NAME",
      help: "what clients call it; the folder's name if not given",
    },
    host: {
      type: "string",
      value: "ADDRESS",
      help: "the address to listen on; 0.0.0.0 for other machines too",
      default: "127.0.0.1",
    },
    port: {
      type: "integer",
      value: "N",
      help: "0: any that is free",
      default: 8000,
      min: 0,
      max: 65535,
    },
    keys: {
      type: "string",
      value: "FILE",
      help: "a file of API keys, one a line; or one in DSV3_API_KEY",
    },
    maxContext: {
      type: "integer",
      value: "N",
      help: "tokens of prompt and answer together; the model's if not given",
      min: 1,
    },
    cacheTokens: {
      type: "integer",
      value: "N",
      help: "tokens that the latent cache holds; four contexts if not given",
      min: 1,
    },
    maxRunning: {
      type: "integer",
      value: "N",
      help: "answers computed at once",
      default: 16,
      min: 1,
    },
    maxQueued: { type: "integer", value: "N", help: "answers that may wait", default: 256, min: 1 },
    drain: {
      type: "number",
      value: "SECONDS",
      help: "how long answers at work may go on when the server is stopped",
      default: 30,
      min: 0,
    },
    speculate: {
      type: "boolean",
      help: "guess tokens ahead with the model's MTP module; answers stay the same",
    },
    backend: backendFlag,
    fast: {
      type: "boolean",
      help: "faster for one or two clients, but answers may depend on who else is served",
    },
  },
  examples: [
    "serve --model runs/demo/model",
    "serve --model my-model --host 0.0.0.0 --keys keys.txt --max-running 64",
  ],
  endsWhenStopped: true,
  async run(
    { model, name, host, port, keys, drain, speculate, fast, backend: choice, ...sizes },
    io,
  ) {
    const apiKeys = await readKeys(keys, io);
    const tokenizer = await loadTokenizer(model);
    const backend = await openBackend(choice);
    try {
      setBackend(backend);
      const { params, config } = await loadModel(model, { mtp: speculate });
      const given = Object.entries(sizes).filter(([, value]) => value !== undefined);
      const settings = { ...Object.fromEntries(given), speculate, batchInvariant: !fast };
      const engine = new Engine({ params, config, tokenizer, ...settings });
      const app = createApp({
        engine,
        tokenizer,
        model: name ?? basename(resolve(model)),
        apiKeys,
        onError: (error) => {
          io.stderr.write(`dsv3 serve: ${describeError(error, io.env.DSV3_DEBUG === "1")}\n`);
        },
      });
      const server = await listen(app, { host, port });
      io.stdout.write(`${server.url}/v1\n`);
      await stopped(io.signal);
      await server.close(drain * 1000);
      await engine.dispose();
      disposeTree(params);
    } finally {
      backend.dispose();
    }
  },
});

async function readKeys(file: string | undefined, io: Io): Promise<string[]> {
  const text = file === undefined ? (io.env.DSV3_API_KEY ?? "") : await readFile(file, "utf8");
  const keys = text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  if (file !== undefined && keys.length === 0) {
    throw new UsageError(`--keys: ${file} holds no key; without keys, leave the flag out`);
  }
  return keys;
}

function stopped(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
