/** Datasets of the Hugging Face Hub by name, kept in the cache that its other programs use. */
import { mkdir, readFile, stat, symlink } from "node:fs/promises";
import { dirname, join, posix, relative } from "node:path";
import { type Download, DownloadError, download, type Fetching, patientFetch } from "./download.ts";
import { formatOf, type InputFile, KNOWN } from "./input-file.ts";
import { writeWhole } from "./write-whole.ts";

export interface HubOptions extends Fetching {
  /** HF_ENDPOINT. */
  readonly endpoint: string;
  /** HF_TOKEN. */
  readonly token?: string;
  /** HF_HUB_CACHE, or `hub` in HF_HOME. */
  readonly cache?: string;
}

/** What the environment says. */
export function hubOptions(env: NodeJS.ProcessEnv = process.env): HubOptions {
  const endpoint = (env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
  return { endpoint, retryMs: 1000, ...(env.HF_TOKEN ? { token: env.HF_TOKEN } : {}) };
}

const NAME =
  /^hf:(?<repo>[\w.-]+\/[\w.-]+)(?:@(?<revision>(?:refs\/(?:convert|pr)\/)?[^/]+))?(?:\/(?<rest>.+))?$/;
const COMMIT = /^[0-9a-f]{40}$/;
/** Where the Hub keeps its own conversion of each dataset: CONFIG/SPLIT/0000.parquet. */
const CONVERTED = "refs/convert/parquet";

export const isHubName = (pattern: string): boolean => pattern.startsWith("hf:");

/** A file as the Hub lists it. */
interface Entry {
  readonly path: string;
  readonly size: number;
  readonly oid: string;
}

/**
 * The files that a name means: `hf:owner/name[@revision][/rest]`, where `rest` is a file, a folder, a
 * glob pattern, or `config:split`. The files' own names hold the commit, and mean the same for ever.
 * Nothing is downloaded yet, and nothing is asked when a commit is named whose list is in the cache.
 * @throws Error for a malformed name, for a dataset or file that is not there or not allowed, and when
 *   the Hub cannot be reached
 */
export async function hubFiles(name: string, options: HubOptions): Promise<InputFile[]> {
  const { repo, revision, rest } = NAME.exec(name)?.groups ?? {};
  if (repo === undefined) {
    throw new Error(
      `${name}: expected hf:owner/name, and maybe @revision, and then /path or /config:split`,
    );
  }
  const files = new Repository(name, repo, options);
  const [config, split, ...more] = (rest ?? "").split(":");
  if (split === undefined) return files.select(revision ?? "main", (all) => byPath(all, rest));
  if (!config || !split || more.length > 0) throw new Error(`${name}: expected config:split`);
  return files.ofSplit(revision, config, split);
}

class Repository {
  readonly #name: string;
  readonly #repo: string;
  readonly #options: HubOptions;

  constructor(name: string, repo: string, options: HubOptions) {
    this.#name = name;
    this.#repo = repo;
    this.#options = options;
  }

  async select(
    revision: string,
    choose: (entries: readonly Entry[]) => readonly Entry[],
  ): Promise<InputFile[]> {
    const commit = await this.#commit(revision);
    const entries = await this.#list(commit);
    const chosen = choose(entries);
    if (chosen.length > 0) return chosen.map((entry) => this.#file(commit, entry));
    const some = entries.slice(0, 8).map(({ path }) => path);
    throw new Error(
      `${this.#name}: no file that can be read; ${KNOWN}; the dataset has ${some.join(", ") || "no files"}${
        entries.length > some.length ? " …" : ""
      }`,
    );
  }

  /** By the names that files of a split have; or else, unless a revision is named, the Hub's conversion. */
  async ofSplit(revision: string | undefined, config: string, split: string): Promise<InputFile[]> {
    try {
      return await this.select(revision ?? "main", (all) => bySplit(all, config, split));
    } catch (error) {
      if (revision !== undefined || !(error as Error).message.includes(KNOWN)) throw error;
      return await this.select(CONVERTED, (all) => byPath(all, `${config}/${split}`));
    }
  }

  async #commit(revision: string): Promise<string> {
    if (COMMIT.test(revision)) return revision;
    const { datasetInfo } = await import("@huggingface/hub");
    const info = await this.#ask(() =>
      datasetInfo({ ...this.#asking(), name: this.#repo, revision, additionalFields: ["sha"] }),
    );
    if (COMMIT.test(info.sha)) return info.sha;
    throw new Error(`${this.#name}: ${this.#options.endpoint} gives ${info.sha} as the commit`);
  }

  async #list(commit: string): Promise<Entry[]> {
    const kept = join(await this.#folder(), "listings", `${commit}.json`);
    const text = await readFile(kept, "utf8").catch(() => undefined);
    if (text !== undefined) return JSON.parse(text) as Entry[];
    const { listFiles } = await import("@huggingface/hub");
    const entries = await this.#ask(async () => {
      const found: Entry[] = [];
      const repo = { type: "dataset", name: this.#repo } as const;
      const asked = { ...this.#asking(), repo, revision: commit, recursive: true };
      for await (const { type, path, size, oid, lfs } of listFiles(asked)) {
        if (type === "file") found.push({ path, size, oid: lfs?.oid ?? oid ?? "" });
      }
      return found;
    });
    for (const { path, oid } of entries) {
      if (
        !/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(oid) ||
        /(?:^|[/\\])\.\.?(?:[/\\]|$)/.test(path)
      ) {
        throw new Error(`${this.#name}: the list of files has ${JSON.stringify({ path, oid })}`);
      }
    }
    entries.sort((a, b) => (a.path < b.path ? -1 : 1));
    await mkdir(dirname(kept), { recursive: true });
    await writeWhole(kept, [JSON.stringify(entries)]);
    return entries;
  }

  #file(commit: string, { path, size, oid }: Entry): InputFile {
    const name = `hf:${this.#repo}@${commit}/${path}`;
    const local: InputFile["local"] = async ({ signal, onDownload } = {}) => {
      const folder = await this.#folder();
      const blob = join(folder, "blobs", oid);
      if ((await stat(blob).catch(() => undefined))?.size === size) return blob;
      await mkdir(dirname(blob), { recursive: true });
      const { endpoint, token, retryMs } = this.#options;
      const escaped = path.split("/").map(encodeURIComponent).join("/");
      const url = `${endpoint}/datasets/${this.#repo}/resolve/${commit}/${escaped}`;
      const headers: Download["headers"] = token ? { authorization: `Bearer ${token}` } : {};
      await this.#ask(() =>
        download(blob, { url, headers, size, oid }, { retryMs, signal }, (bytes) =>
          onDownload?.({ file: name, bytes, size }),
        ),
      );
      // The name by which people and other programs find it, where the system has links.
      const link = join(folder, "snapshots", commit, path);
      await mkdir(dirname(link), { recursive: true });
      await symlink(relative(dirname(link), blob), link).catch(() => {});
      return blob;
    };
    return { name, size, version: oid, local };
  }

  async #folder(): Promise<string> {
    const { getHFHubCachePath, getRepoFolderName } = await import("@huggingface/hub");
    const cache = this.#options.cache ?? getHFHubCachePath();
    return join(cache, getRepoFolderName({ type: "dataset", name: this.#repo }));
  }

  #asking() {
    const { endpoint, token } = this.#options;
    return {
      hubUrl: endpoint,
      ...(token ? { accessToken: token } : {}),
      fetch: (url: string | URL | Request, init: RequestInit = {}) =>
        patientFetch(url, init, this.#options),
    };
  }

  /** Says what an error of the Hub means, and how to mend it. */
  async #ask<T>(question: () => Promise<T>): Promise<T> {
    try {
      return await question();
    } catch (error) {
      const { HubApiError } = await import("@huggingface/hub");
      const { endpoint, token } = this.#options;
      const status =
        error instanceof HubApiError
          ? error.statusCode
          : error instanceof DownloadError
            ? error.status
            : undefined;
      const page = `${endpoint}/datasets/${this.#repo}`;
      const meanings: Record<number, string> = {
        401: token
          ? "HF_TOKEN is not accepted, or there is no such dataset"
          : "there is no such dataset, or it is private or gated: then set HF_TOKEN to a token that may read it",
        403: `not allowed; accept the terms at ${page}, and set HF_TOKEN to a token that may read it`,
        404: `there is no such dataset, revision or file at ${endpoint}${token ? "" : "; a private one needs HF_TOKEN"}`,
        429: `too many requests; wait some minutes${token ? "" : ", or set HF_TOKEN, which allows more"}`,
      };
      if (status !== undefined) {
        const meaning = meanings[status] ?? "the Hub does not answer as it should; try again later";
        throw new Error(`${this.#name}: ${meaning} (status ${status})`, { cause: error });
      }
      if (error instanceof TypeError && error.message === "fetch failed") {
        throw new Error(
          `${this.#name}: cannot reach ${endpoint}; what is in the cache is read when its commit is named (@ and 40 digits)`,
          { cause: error.cause },
        );
      }
      if (!(error instanceof Error) || error.name === "AbortError") throw error;
      throw new Error(`${this.#name}: ${error.message}`, { cause: error.cause });
    }
  }
}

/** A file, what a folder holds, or what a glob pattern matches; everything without a path. */
function byPath(entries: readonly Entry[], path: string | undefined): Entry[] {
  const readable = entries.filter((entry) => formatOf(entry.path));
  if (path === undefined) return readable;
  const folder = path.endsWith("/") ? path : `${path}/`;
  const named = readable.filter((entry) => entry.path === path || entry.path.startsWith(folder));
  return named.length > 0 ? named : readable.filter((entry) => posix.matchesGlob(entry.path, path));
}

/**
 * The names by which the Hub's viewer tells splits, in the folder of the configuration:
 * `train-00000-of-00002.parquet`, `train.jsonl`, `train/a.txt`; also in a folder `data`.
 */
function bySplit(entries: readonly Entry[], config: string, split: string): Entry[] {
  const folders = config === "default" ? ["", "data/"] : [`${config}/`, `data/${config}/`];
  return entries.filter(({ path }) =>
    folders.some((folder) => {
      const rest = path.startsWith(folder) ? path.slice(folder.length) : "";
      return formatOf(path) && rest.startsWith(split) && /^[-._/]/.test(rest.slice(split.length));
    }),
  );
}
