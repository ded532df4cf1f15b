import { totalmem } from "node:os";
import {
  createApp,
  folderModel,
  Gateway,
  type Log,
  listen,
  type ModelSource,
  Models,
  modelFolders,
} from "@dsv3/server";
import { pino } from "pino";
import { backendFlag } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import type { Args, Flag } from "../flags.ts";
import type { Io } from "../io.ts";
import { printJson } from "../ui/json.ts";
import { type ModelsHere, modelsHere } from "./models-here.ts";
import { readKeys, readUpstreams } from "./serve-keys.ts";
import { printedSettings, readSettings } from "./serve-settings.ts";

const flags = {
  model: {
    type: "list",
    value: "[NAME=]DIR",
    help: "a Hugging Face folder, or a folder of such; clients call it NAME, or by the folder's name",
  },
  upstream: {
    type: "list",
    value: "URL",
    help: "an engine elsewhere (vLLM, SGLang, dsv3) whose models are served too: http://10.0.0.5:8000",
  },
  upstreamKeys: {
    type: "string",
    value: "FILE",
    help: "a file of upstreams' keys, URL KEY on each line; or one for all in DSV3_UPSTREAM_KEY",
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
    help: "a file of API keys or sha256:HASHES, one a line; or one in DSV3_API_KEY",
  },
  origin: {
    type: "list",
    value: "ORIGIN",
    help: "pages of this origin may ask, from browsers: https://chat.example, or *",
  },
  maxModels: {
    type: "integer",
    value: "N",
    help: "models in memory at once; others are loaded when asked for, in place of one not used",
    min: 1,
  },
  memory: {
    type: "number",
    value: "GB",
    help: "memory for models; on the processor 80 % of what there is if not given",
    min: 0,
  },
  unloadAfter: {
    type: "number",
    value: "SECONDS",
    help: "unload models that nobody used for so long; never if not given",
    min: 0,
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
    help: "tokens that a model's latent cache holds; four contexts if not given",
    min: 1,
  },
  cacheDtype: {
    type: "choice",
    choices: ["f32", "bf16", "fp8"],
    help: "what the cache is kept in: bf16 takes half the memory, fp8 a good quarter; f32 if not given",
  },
  maxRunning: {
    type: "integer",
    value: "N",
    help: "answers that a model computes at once",
    default: 16,
    min: 1,
  },
  maxQueued: { type: "integer", value: "N", help: "answers that may wait", default: 256, min: 1 },
  timeout: {
    type: "number",
    value: "SECONDS",
    help: "the longest that a request may take, waiting included",
    default: 600,
    min: 0.001,
    max: 1e6,
  },
  drain: {
    type: "number",
    value: "SECONDS",
    help: "how long answers at work may go on when the server is stopped",
    default: 30,
    min: 0,
    max: 1e6,
  },
  pooling: {
    type: "choice",
    choices: ["mean", "last"],
    help: "which tokens' states are a text's embedding: all, or the last one's",
    default: "mean",
  },
  speculate: {
    type: "boolean",
    help: "guess tokens ahead with the model's MTP modules; answers stay the same",
  },
  backend: backendFlag,
  fast: {
    type: "boolean",
    help: "faster for one or two clients, but answers may depend on who else is served",
  },
  log: {
    type: "choice",
    choices: ["debug", "info", "error", "silent"],
    help: "what is logged to stderr, as lines of JSON",
    default: "info",
  },
  otlp: {
    type: "string",
    value: "URL",
    help: "sends a trace of each request to this OpenTelemetry collector: http://127.0.0.1:4318",
  },
  config: {
    type: "string",
    value: "FILE",
    help: 'settings as JSON, { "port": 8000 }; DSV3_SERVE_PORT=8000 and flags go before it',
  },
  printConfig: { type: "boolean", help: "print the settings that come of all this, and end" },
} as const satisfies Record<string, Flag>;

type Settings = Args<typeof flags, Record<never, never>>;

export const serve: Command = {
  ...defineCommand({
    summary: "Serves models over HTTP to OpenAI's and Anthropic's clients, until it is stopped.",
    flags,
    examples: [
      "serve --model runs/demo/model",
      "serve --model my-model --host 0.0.0.0 --keys keys.txt --max-running 64",
      "serve --model small=runs/demo/model --model models/ --max-models 2 --unload-after 600",
      "serve --upstream http://10.0.0.5:8000 --upstream http://10.0.0.6:8000 --keys keys.txt",
    ],
    endsWhenStopped: true,
    run,
  }),
  run: async (argv, io) => run((await readSettings(argv, flags, io.env)) as Settings, io),
};

async function run(settings: Settings, io: Io): Promise<void> {
  if (settings.model.length === 0 && settings.upstream.length === 0) {
    throw new UsageError(`--model is missing: ${flags.model.help}; or --upstream, or both`);
  }
  if (settings.printConfig) {
    const secrets = ["DSV3_API_KEY", "DSV3_UPSTREAM_KEY"].filter((name) => io.env[name]);
    const hidden = Object.fromEntries(secrets.map((name) => [name, "(hidden)"]));
    printJson(io.stdout, { ...printedSettings(settings), ...hidden });
    return;
  }
  const {
    host,
    port,
    origin,
    drain,
    timeout,
    otlp = io.env.OTEL_EXPORTER_OTLP_ENDPOINT,
  } = settings;
  const apiKeys = await readKeys(settings.keys, io);
  const upstreams = await readUpstreams(settings.upstream, settings.upstreamKeys, io);
  const log = openLog(settings.log, io);
  const gateway = upstreams.length > 0 ? await Gateway.open({ upstreams, log }) : null;
  const tracing = otlp ? (await import("./serve-tracing.ts")).openTracing(otlp) : null;
  try {
    const { models, close } = await openHere(settings, log);
    try {
      const app = createApp({
        ...{ models, apiKeys, origins: origin, timeout: timeout * 1000, log },
        ...(gateway && { gateway }),
        ...(tracing && { tracer: tracing.tracer }),
      });
      // One model is there before the port is; which of several is wanted, clients say.
      const [only, ...more] = models.list();
      if (only && more.length === 0) (await models.acquire(only.name)).release();
      const server = await listen(app, { host, port });
      io.stdout.write(`${server.url}/v1\n`);
      await stopped(io.signal);
      await server.close(drain * 1000);
    } finally {
      await close();
    }
  } finally {
    gateway?.close();
    await tracing?.close();
  }
}

/** The models of this machine; without any, there is no need of a backend. */
async function openHere(settings: Settings, log: Log): Promise<ModelsHere> {
  if (settings.model.length === 0) return { models: new Models([]), close: async () => {} };
  return modelsHere(settings.backend, ({ name }) => openModels(settings, name === "wasm", log));
}

/** Lines of JSON, with times and levels that people can read too. */
function openLog(level: string, io: Io): Log {
  const formatters = { level: (label: string) => ({ level: label }) };
  const timestamp = pino.stdTimeFunctions.isoTime;
  const options = { level, base: null, formatters, timestamp };
  return pino(options, { write: (line) => io.stderr.write(line) });
}

async function openModels(settings: Settings, onProcessor: boolean, log: Log): Promise<Models> {
  const { speculate, fast, pooling, maxModels, unloadAfter, memory } = settings;
  const { maxRunning, maxQueued, maxContext, cacheTokens, cacheDtype } = settings;
  const options = {
    ...{ speculate, pooling, maxRunning, maxQueued, batchInvariant: !fast },
    ...(maxContext !== undefined && { maxContext }),
    ...(cacheTokens !== undefined && { cacheTokens }),
    ...(cacheDtype !== undefined && { cacheDtype }),
  };
  const sources: ModelSource[] = [];
  for (const given of settings.model) {
    const [, name, path] = /^(?:([^=/\\]+)=)?(.+)$/.exec(given)!;
    const folders = await modelFolders(path!);
    if (name !== undefined && folders.length > 1) {
      throw new UsageError(
        `--model ${given}: ${path} holds ${folders.length} models, which one name cannot have`,
      );
    }
    for (const folder of folders) sources.push(await folderModel(folder, name, options));
  }
  // A container may have less than the machine.
  const there = Math.min(totalmem(), process.constrainedMemory() || Infinity);
  const most = onProcessor ? 0.8 * there : undefined;
  const maxBytes = memory === undefined ? most : memory * 1e9;
  return new Models(sources, {
    log,
    ...(maxModels !== undefined && { maxLoaded: maxModels }),
    ...(maxBytes !== undefined && { maxBytes }),
    ...(unloadAfter !== undefined && { idleTimeout: unloadAfter * 1000 }),
  });
}

function stopped(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
