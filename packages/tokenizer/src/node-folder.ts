import { mkdir, readFile, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { TokenizerConfig } from "./special.ts";
import { Tokenizer } from "./tokenizer.ts";

const TOKENIZER = "tokenizer.json";
const CONFIG = "tokenizer_config.json";

/**
 * Reads a Hugging Face folder: tokenizer.json and, where there is one, tokenizer_config.json.
 * @throws with the file, and the place in it, for whatever is missing or broken
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const [json, config] = await Promise.all([
    readFile(join(folder, TOKENIZER)),
    readConfig(join(folder, CONFIG)),
  ]);
  try {
    return Tokenizer.fromJSON(json, config);
  } catch (error) {
    throw new Error(`${folder}: ${(error as Error).message}`, { cause: error });
  }
}

/**
 * Writes tokenizer.json and tokenizer_config.json, which transformers' `AutoTokenizer` loads, into a
 * folder; makes the folder where there is none. A file is whole or is not there: each is written
 * under another name first.
 * @throws with the folder and what is in the way; a folder that was made is removed again
 */
export async function saveTokenizer(tokenizer: Tokenizer, folder: string): Promise<void> {
  const files = [
    [TOKENIZER, JSON.stringify(tokenizer.toJSON(), null, 1)],
    [CONFIG, JSON.stringify(tokenizer.config, null, 2)],
  ] as const;
  const partial = (name: string) => join(folder, `.${name}.partial-${process.pid}`);
  let made: string | undefined;
  try {
    made = await mkdir(folder, { recursive: true });
    try {
      for (const [name, text] of files) await writeFile(partial(name), `${text}\n`);
      for (const [name] of files) await rename(partial(name), join(folder, name));
    } finally {
      for (const [name] of files) await rm(partial(name), { force: true });
    }
  } catch (cause) {
    if (made !== undefined) await removeEmpty(resolve(folder), resolve(made));
    throw new Error(`cannot write the tokenizer to ${folder}: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** Removes folders that are empty, from `folder` up to `top`. */
async function removeEmpty(folder: string, top: string): Promise<void> {
  const removed = await rmdir(folder).then(
    () => true,
    () => false,
  );
  if (removed && folder !== top) await removeEmpty(dirname(folder), top);
}

async function readConfig(path: string): Promise<TokenizerConfig | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  let config: unknown;
  try {
    config = JSON.parse(text);
  } catch (error) {
    throw new Error(`${path}: ${(error as Error).message}`, { cause: error });
  }
  if (config === null || typeof config !== "object" || Array.isArray(config)) {
    throw new Error(`${path}: expected an object`);
  }
  return config as TokenizerConfig;
}
