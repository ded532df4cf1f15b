/** A model to talk with: of a folder, served in this process, or behind a URL. */
import { createApp, folderModel, type HostOptions, Models } from "@dsv3/server";
import type { BackendChoice } from "../backend.ts";
import { describeError } from "../errors.ts";
import type { Io } from "../io.ts";
import { type ChatTarget, firstModel } from "./chat-session.ts";
import { modelsHere } from "./models-here.ts";

export interface Opened {
  readonly target: ChatTarget;
  close(): Promise<void>;
}

export interface TargetOptions {
  /** Which of a server's models, or what the folder's is called. */
  readonly name: string | undefined;
  readonly backend: BackendChoice;
  /** Of a folder's model. */
  readonly engine?: HostOptions;
}

/** @param model a folder, or the URL of a server of OpenAI's interface, whose key is in DSV3_API_KEY */
export function openTarget(model: string, options: TargetOptions, io: Io): Promise<Opened> {
  const isUrl = /^https?:\/\//.test(model);
  return isUrl ? remote(model, options.name, io) : local(model, options, io);
}

async function remote(model: string, name: string | undefined, io: Io): Promise<Opened> {
  const reach = { url: model.replace(/\/+$/, ""), key: io.env.DSV3_API_KEY, fetch };
  const target = { ...reach, model: name ?? (await firstModel(reach)) };
  return { target, close: async () => {} };
}

/** A server in this process, without a port. */
async function local(
  model: string,
  { name, backend: choice, engine }: TargetOptions,
  io: Io,
): Promise<Opened> {
  const source = await folderModel(model, name, engine);
  const { models, close } = await modelsHere(choice, async () => {
    const opened = new Models([source]);
    (await opened.acquire(source.name)).release();
    return opened;
  });
  const error = ({ err }: { err?: unknown }) => io.stderr.write(`${describeError(err, false)}\n`);
  const app = createApp({ models, log: { debug() {}, info() {}, error } });
  const target: ChatTarget = {
    url: "http://local/v1",
    model: source.name,
    fetch: (request) => app.fetch(request),
  };
  return { target, close };
}
