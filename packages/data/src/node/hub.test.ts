import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { pinNames } from "./files.ts";
import { type HubOptions, hubFiles } from "./hub.ts";
import { readSamples } from "./read.ts";

const COMMIT = "1".repeat(40);
const CONVERTED = "2".repeat(40);
const large = Buffer.from(`{"text":"${"large ".repeat(50_000)}"}\n`);
const small = Buffer.from('{"text":"small"}\n');

/** What the repository holds, by commit. */
const files: Record<string, Record<string, Buffer>> = {
  [COMMIT]: {
    "README.md": Buffer.from("# A dataset"),
    "data/train-00000-of-00001.jsonl": large,
    "data/test.jsonl": small,
    "more/a b.jsonl.gz": gzipSync(small),
    "more/picture.png": Buffer.from("x"),
    "evil.txt": Buffer.from("evil"),
  },
  [CONVERTED]: { "plain/train/0000.jsonl": small, "plain/partial-test/0000.jsonl": small },
};
const revisions: Record<string, string> = {
  main: COMMIT,
  "v1.0": COMMIT,
  "refs/convert/parquet": CONVERTED,
};
/** Large files have a SHA-256 in LFS, others the SHA-1 of a git blob. */
const isLarge = (bytes: Buffer) => bytes.length > 1000;
const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
const gitOid = (bytes: Buffer) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

let server: Server;
let options: HubOptions & { cache: string };
/** Requests so far: method, path, range, and the token. */
let log: { path: string; range: string | undefined; token: string | undefined }[];
/** Answers in place of the usual one; true when it did. */
let intervene: (request: IncomingMessage, response: ServerResponse) => boolean;

beforeEach(async () => {
  log = [];
  intervene = () => false;
  server = createServer((request, response) => {
    const path = decodeURIComponent((request.url as string).split("?")[0] as string);
    log.push({ path, range: request.headers.range, token: request.headers.authorization });
    if (!intervene(request, response)) answer(path, request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  options = { endpoint, cache: await mkdtemp(join(tmpdir(), "dsv3-hub-")), retryMs: 1 };
});
afterEach(async () => {
  vi.unstubAllEnvs();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(options.cache, { recursive: true });
});

function answer(path: string, request: IncomingMessage, response: ServerResponse): void {
  const json = (value: unknown, headers = {}) =>
    response
      .writeHead(200, { "content-type": "application/json", ...headers })
      .end(JSON.stringify(value));
  const revision = /^\/api\/datasets\/o\/n\/revision\/(.+)$/.exec(path)?.[1];
  if (revision) {
    const sha = revisions[revision];
    if (sha) json({ _id: "1", id: "o/n", sha, lastModified: "2026-01-01" });
    else response.writeHead(404).end();
    return;
  }
  const tree = files[/^\/api\/datasets\/o\/n\/tree\/(.+)$/.exec(path)?.[1] ?? ""];
  if (tree) {
    const entries = Object.entries(tree).map(([name, bytes]) => ({
      ...{ type: "file", path: name, size: bytes.length, oid: gitOid(bytes) },
      ...(isLarge(bytes)
        ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 1 } }
        : {}),
    }));
    // The list comes in two pages.
    const next = `<${options.endpoint}${request.url}&cursor=2>; rel="next"`;
    if (request.url?.includes("cursor=2")) json(entries.slice(2));
    else
      json(
        [{ type: "directory", path: "data", size: 0, oid: "0".repeat(40) }, ...entries.slice(0, 2)],
        { link: next },
      );
    return;
  }
  const asked = /^\/(?:datasets\/o\/n\/resolve|storage)\/([^/]+)\/(.+)$/.exec(path);
  const bytes = files[asked?.[1] as string]?.[asked?.[2] as string];
  if (!bytes) response.writeHead(404).end();
  else if (isLarge(bytes) && !path.startsWith("/storage")) {
    response.writeHead(302, { location: `/storage/${asked?.[1]}/${asked?.[2]}` }).end();
  } else {
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const range = `bytes ${from}-${bytes.length - 1}/${bytes.length}`;
    response.writeHead(from > 0 ? 206 : 200, from > 0 ? { "content-range": range } : {});
    response.end(bytes.subarray(from));
  }
}

const names = async (name: string) =>
  (await hubFiles(name, options)).map(({ name }) => name.replace(/^hf:o\/n@\d+\//, ""));
const fetchOne = async (path = "data/train-00000-of-00001.jsonl") => {
  const [file] = await hubFiles(`hf:o/n/${path}`, options);
  return readFile((await file?.local()) as string);
};
const downloads = () => log.filter(({ path }) => path.startsWith("/storage"));

describe("hubFiles", () => {
  it.each([
    [
      "hf:o/n",
      [
        "README.md",
        "data/test.jsonl",
        "data/train-00000-of-00001.jsonl",
        "evil.txt",
        "more/a b.jsonl.gz",
      ],
    ],
    ["hf:o/n/data", ["data/test.jsonl", "data/train-00000-of-00001.jsonl"]],
    ["hf:o/n@v1.0/data/test.jsonl", ["data/test.jsonl"]],
    ["hf:o/n/**/*.gz", ["more/a b.jsonl.gz"]],
    ["hf:o/n/default:train", ["data/train-00000-of-00001.jsonl"]],
    ["hf:o/n@main/default:test", ["data/test.jsonl"]],
    // The Hub's own conversion to parquet, when the repository's names do not tell.
    ["hf:o/n/plain:train", ["plain/train/0000.jsonl"]],
    [
      "hf:o/n@refs/convert/parquet/plain",
      ["plain/partial-test/0000.jsonl", "plain/train/0000.jsonl"],
    ],
  ])("finds the files of %s", async (name, expected) => {
    expect(await names(name)).toEqual(expected);
  });

  it.each([
    ["hf:o", "expected hf:owner/name"],
    ["hf:o/n/default:", "expected config:split"],
    ["hf:o/n/a:b:c", "expected config:split"],
    ["hf:o/n/none.jsonl", "no file that can be read"],
    ["hf:o/n/more/picture.png", "the dataset has README.md, data/"],
    // What the Hub converted in part is not the split.
    ["hf:o/n/plain:test", "no file that can be read"],
    ["hf:o/n@main/plain:train", "no file that can be read"],
    ["hf:o/n@none", "no such dataset, revision or file"],
    ["hf:o/other", "a private one needs HF_TOKEN (status 404)"],
  ])("refuses %s", async (name, message) => {
    await expect(hubFiles(name, options)).rejects.toThrow(message);
  });

  it.each([
    [401, undefined, "private or gated: then set HF_TOKEN"],
    [401, "hf_x", "HF_TOKEN is not accepted"],
    [403, "hf_x", "accept the terms at http://127.0.0.1"],
    [429, undefined, "too many requests; wait some minutes, or set HF_TOKEN"],
    [503, undefined, "try again later (status 503)"],
  ])("says how to mend status %d", async (status, token, message) => {
    intervene = (_, response) => {
      response.writeHead(status).end();
      return true;
    };
    const asked = hubFiles("hf:o/n", token ? { ...options, token } : options);
    await expect(asked).rejects.toThrow(message);
    expect(log.length).toBe(status === 429 || status === 503 ? 5 : 1);
    expect(log[0]?.token).toBe(token && `Bearer ${token}`);
  });

  it("waits as long as a busy server asks, but not for ever", async () => {
    let wait = "0.01";
    intervene = (_, response) => {
      if (log.length === 2 && wait === "0.01") return false;
      response.writeHead(429, { "retry-after": wait }).end();
      return true;
    };
    await hubFiles(`hf:o/n@v1.0`, options).catch(() => {});
    expect(log[1]?.path).toContain("/revision/");
    wait = "3600";
    log = [];
    await expect(hubFiles("hf:o/n@v1.0", options)).rejects.toThrow("too many requests");
    expect(log).toHaveLength(1);
  });

  it("says when nobody answers", async () => {
    const nowhere = { ...options, endpoint: "http://127.0.0.1:1" };
    await expect(hubFiles("hf:o/n", nowhere)).rejects.toThrow("cannot reach http://127.0.0.1:1");
  });

  it("takes no path that leaves the cache, and no file without a hash", async () => {
    for (const entry of [
      { path: "../../evil.txt", oid: "0".repeat(40) },
      { path: "a.txt", oid: "../../../evil" },
      { path: "a.txt", oid: "" },
    ]) {
      intervene = (request, response) => {
        if (!request.url?.includes("/tree/")) return false;
        response.writeHead(200, { "content-type": "application/json" });
        response.end(JSON.stringify([{ type: "file", size: 1, ...entry }]));
        return true;
      };
      await expect(hubFiles("hf:o/n", options)).rejects.toThrow("the list of files has");
    }
  });
});

describe("the cache", () => {
  it("keeps files under the hash of the Hub, and asks once", async () => {
    expect(await fetchOne()).toEqual(large);
    expect(await fetchOne("more/a b.jsonl.gz")).toEqual(gzipSync(small));
    const folder = join(options.cache, "datasets--o--n");
    expect((await readdir(join(folder, "blobs"))).sort()).toEqual(
      [sha256(large), gitOid(gzipSync(small))].sort(),
    );
    const link = join(folder, "snapshots", COMMIT, "data", "train-00000-of-00001.jsonl");
    expect(await readFile(link)).toEqual(large);
    log = [];
    // By its commit, with no server at all.
    const [file] = await hubFiles(`hf:o/n@${COMMIT}/default:train`, {
      ...options,
      endpoint: "http://127.0.0.1:1",
    });
    expect(await readFile((await file?.local()) as string)).toEqual(large);
    expect(log).toEqual([]);
  });

  it("goes on by ranges where the connection broke", async () => {
    intervene = (request, response) => {
      if (!request.url?.startsWith("/storage") || downloads().length > 3) return false;
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, { "content-length": large.length - from });
      // What a stream has not handed on when it breaks is lost: it gets the time to.
      const part = large.subarray(from, from + 70_000);
      response.write(part, () => setTimeout(() => response.destroy(), 100));
      return true;
    };
    expect(await fetchOne()).toEqual(large);
    const ranges = downloads().map(({ range }) => range);
    expect(ranges[0]).toBeUndefined();
    expect(ranges.slice(1)).toHaveLength(3);
    for (const range of ranges.slice(1)) expect(range).toMatch(/^bytes=[1-9]\d+-$/);
  });

  it("goes on with what an earlier process left, also when that is wrong", async () => {
    const partial = join(options.cache, "datasets--o--n", "blobs", `${sha256(large)}.incomplete`);
    const leave = async (bytes: Buffer) => {
      await mkdir(join(partial, ".."), { recursive: true });
      await rm(join(partial, "..", sha256(large)), { force: true });
      await writeFile(partial, bytes);
      log = [];
    };
    await leave(large.subarray(0, 1000));
    expect(await fetchOne()).toEqual(large);
    expect(downloads().map(({ range }) => range)).toEqual(["bytes=1000-"]);
    await leave(Buffer.alloc(1000));
    expect(await fetchOne()).toEqual(large);
    expect(downloads().map(({ range }) => range)).toEqual(["bytes=1000-", undefined]);
    await leave(Buffer.alloc(large.length + 1));
    expect(await fetchOne()).toEqual(large);
    await leave(large);
    expect(await fetchOne()).toEqual(large);
    expect(downloads()).toEqual([]);
  });

  it("begins again when the server knows no ranges", async () => {
    intervene = (request, response) => {
      if (!request.url?.startsWith("/storage")) return false;
      if (downloads().length > 1) response.end(large);
      else
        response
          .writeHead(200, { "content-length": large.length })
          .write(large.subarray(0, 9), () => response.destroy());
      return true;
    };
    expect(await fetchOne()).toEqual(large);
  });

  it.each([
    ["shorter", large.subarray(0, 500), "the connection breaks off at byte 500"],
    ["longer", Buffer.concat([large, small]), "sent more than the 300012 bytes"],
    ["other", Buffer.from(large).fill("x", 500, 600), "has not the hash"],
  ])("keeps nothing of %s content", async (_, content, message) => {
    intervene = (request, response) => {
      if (!request.url?.startsWith("/storage")) return false;
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200).end(content.subarray(from));
      return true;
    };
    await expect(fetchOne()).rejects.toThrow(message);
    const kept = await readdir(join(options.cache, "datasets--o--n", "blobs"));
    expect(kept).not.toContain(sha256(large));
  });

  it("is what readSamples reads names of the Hub through", async () => {
    vi.stubEnv("HF_ENDPOINT", `${options.endpoint}/`);
    vi.stubEnv("HF_HUB_CACHE", options.cache);
    vi.stubEnv("HF_TOKEN", "hf_secret");
    const seen: unknown[] = [];
    const pinned = await pinNames(["hf:o/n/more", "a.txt"]);
    expect(pinned).toEqual([`hf:o/n@${COMMIT}/more/a b.jsonl.gz`, join(process.cwd(), "a.txt")]);
    for await (const sample of readSamples(pinned.slice(0, 1), {
      onDownload: (progress) => seen.push(progress),
    })) {
      expect(sample).toEqual({ text: "small", file: pinned[0], line: 1 });
    }
    const size = gzipSync(small).length;
    expect(seen).toEqual([{ file: pinned[0], bytes: size, size }]);
    expect(new Set(log.map(({ token }) => token))).toEqual(new Set(["Bearer hf_secret"]));
  });

  it("is no place for problems to be passed over", async () => {
    vi.stubEnv("HF_ENDPOINT", options.endpoint);
    vi.stubEnv("HF_HUB_CACHE", options.cache);
    intervene = (request, response) => {
      if (!request.url?.includes("/resolve/")) return false;
      response.writeHead(403).end();
      return true;
    };
    const samples = readSamples(["hf:o/n/data"], { onProblem: () => {} });
    await expect(samples.next()).rejects.toThrow("not allowed; accept the terms at");
  });

  it("stops a download on request, and can go on later", async () => {
    intervene = (request, response) => {
      if (!request.url?.startsWith("/storage")) return false;
      response.writeHead(200, { "content-length": large.length }).write(large.subarray(0, 999));
      return true;
    };
    const stop = new AbortController();
    const [file] = await hubFiles("hf:o/n/default:train", options);
    const onDownload = () => stop.abort();
    await expect(file?.local({ signal: stop.signal, onDownload })).rejects.toThrow("aborted");
    expect(downloads()).toHaveLength(1);
    intervene = () => false;
    expect(await fetchOne()).toEqual(large);
  });
});
