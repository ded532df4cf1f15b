import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { wasmBackend } from "@dsv3/backend-wasm";
import { initParams, PRESETS, saveModel } from "@dsv3/model";
import { disposeTree, key, setBackend } from "@dsv3/tensor";
import { trainBpe } from "@dsv3/tokenizer";
import { saveTokenizer } from "@dsv3/tokenizer/node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCli } from "../cli.ts";
import { commands } from "../commands.ts";
import { fakeIo } from "../testing.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-serve-"));
  const backend = await wasmBackend({ threads: 1 });
  setBackend(backend);
  const tokenizer = trainBpe(["some words"], { vocabSize: 300 });
  const config = { ...PRESETS.tiny, vocabSize: tokenizer.vocabSize };
  const params = initParams(config, key(0));
  for (const name of ["my-model", "other"]) {
    await saveModel(join(folder, "models", name), config, params);
    await saveTokenizer(tokenizer, join(folder, "models", name));
  }
  await mkdir(join(folder, "models", "no-model"));
  disposeTree(params);
  backend.dispose();
});
afterAll(() => rm(folder, { recursive: true }));

/** Runs the command up to where it serves. */
async function start(argv: string[], env: Record<string, string> = {}) {
  const io = fakeIo(env);
  const backend = ["--backend", "wasm"];
  const ended = runCli(["serve", "--port", "0", ...backend, ...argv], io, commands, "0.0.0");
  await expect.poll(() => io.stdout.text, { timeout: 20_000 }).toMatch(/^http:.*\/v1\n$/);
  const url = io.stdout.text.trim();
  const complete = (model: string, headers: Record<string, string> = {}) =>
    fetch(`${url}/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify({ model, prompt: "some", max_tokens: 3 }),
    });
  return { io, ended, url, complete };
}

/** Lines of the log, without what came before. */
const logged = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

test("serves a folder until it is stopped, and ends well", async () => {
  const model = join(folder, "models", "my-model");
  const argv = ["--model", model, "--speculate"];
  const { io, ended, url, complete } = await start(argv, { DSV3_API_KEY: "secret" });
  expect((await fetch(`${url}/models`)).status).toBe(401);
  const headers = { authorization: "Bearer secret", "x-request-id": "mine" };
  const response = await complete("my-model", headers);
  expect(response.headers.get("x-request-id")).toBe("mine");
  expect(await response.json()).toMatchObject({ object: "text_completion", model: "my-model" });
  io.interrupt();
  expect(await ended).toBe(0);
  await expect(fetch(`${url}/models`)).rejects.toThrow();
  expect(io.stderr.text).not.toContain("secret");
  expect(logged(io.stderr.text)).toMatchObject([
    { level: "info", time: expect.any(String), msg: "model loaded", model: "my-model" },
    { msg: "request", path: "/v1/models", status: 401 },
    { msg: "request", requestId: "mine", status: 200, model: "my-model", completionTokens: 3 },
    { msg: "model unloaded" },
  ]);
});

test("serves several models, each loaded when asked for", async () => {
  const models = join(folder, "models");
  const named = `named=${join(models, "my-model")}`;
  const argv = ["--model", models, "--model", named, "--max-models", "1"];
  const { io, ended, url, complete } = await start(argv);
  const list = async () => {
    const { data } = (await (await fetch(`${url}/models`)).json()) as {
      data: { id: string; loaded: boolean }[];
    };
    return data.map(({ id, loaded }) => [id, loaded]);
  };
  expect(await list()).toEqual([
    ["my-model", false],
    ["other", false],
    ["named", false],
  ]);
  expect((await complete("other")).status).toBe(200);
  expect((await complete("named")).status).toBe(200);
  expect(await list()).toEqual([
    ["my-model", false],
    ["other", false],
    ["named", true],
  ]);
  io.interrupt();
  expect(await ended).toBe(0);
}, 20_000);

test("with --upstream it answers for others, whose keys are in a file or the environment", async () => {
  const nobody = "http://127.0.0.1:1";
  const one = await start(["--model", join(folder, "models")], { DSV3_API_KEY: "back-secret" });
  const keys = join(folder, "upstreams.txt");
  await writeFile(keys, `${one.url} back-secret\n${nobody} other-secret\n`);
  const upstream = ["--upstream", one.url.replace(/\/v1$/, ""), "--upstream", nobody];
  const byFile = await start([...upstream, "--upstream-keys", keys], {
    DSV3_API_KEY: "front-secret",
  });
  const byVariable = await start([], {
    ...{ DSV3_SERVE_UPSTREAM: `${nobody},${one.url}`, DSV3_UPSTREAM_KEY: "back-secret" },
  });
  expect((await byFile.complete("other", { authorization: "Bearer back-secret" })).status).toBe(
    401,
  );
  const headers = { authorization: "Bearer front-secret" };
  for (const front of [byFile, byVariable]) {
    const answer = await front.complete("other", headers);
    expect([answer.status, await answer.json()]).toMatchObject([200, { model: "other" }]);
  }
  const { data } = (await (await fetch(`${byVariable.url}/models`)).json()) as {
    data: { id: string }[];
  };
  expect(data.map(({ id }) => id)).toEqual(["my-model", "other"]);
  one.io.interrupt();
  expect(await one.ended).toBe(0);
  expect((await byVariable.complete("other")).status).toBe(502);
  for (const { io, ended } of [byFile, byVariable]) {
    io.interrupt();
    expect(await ended).toBe(0);
    const lines = logged(io.stderr.text);
    expect(lines).toContainEqual(expect.objectContaining({ msg: "upstream does not answer" }));
    expect(lines).not.toContainEqual(expect.objectContaining({ msg: "model loaded" }));
    expect(io.stderr.text).not.toContain("secret");
  }
  const both = await start(["--model", join(folder, "models", "other"), "--upstream", nobody]);
  expect((await both.complete("other")).status).toBe(200);
  both.io.interrupt();
  expect(await both.ended).toBe(0);
}, 30_000);

test("traces go to a collector", async () => {
  const bodies: string[] = [];
  const collector: Server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    bodies.push(`${request.url} ${body}`);
    response.end("{}");
  });
  await new Promise<void>((resolve) => collector.listen(0, "127.0.0.1", resolve));
  const otlp = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`;
  const model = join(folder, "models", "my-model");
  const { io, ended, complete } = await start(["--model", model, "--otlp", otlp]);
  await complete("my-model");
  io.interrupt();
  expect(await ended).toBe(0);
  collector.close();
  expect(bodies.join()).toMatch(/^\/v1\/traces .*"text_completion my-model"/);
});

test("what is wrong is said before anything is served", async () => {
  const empty = join(folder, "keys.txt");
  await writeFile(empty, "\n");
  const serve = async (...argv: string[]) => {
    const io = fakeIo();
    const backend = ["--backend", "wasm", "--log", "silent"];
    const code = await runCli(["serve", ...argv, ...backend], io, commands, "0.0.0");
    return [code, io.stderr.text] as const;
  };
  const model = ["--model", join(folder, "models", "my-model")];
  const all = join(folder, "models");
  expect(await serve()).toEqual([2, expect.stringContaining("--model is missing")]);
  expect(await serve(...model, "--keys", empty)).toEqual([
    2,
    expect.stringContaining("holds no key"),
  ]);
  expect(await serve(...model, "--max-context", "999")).toEqual([
    1,
    expect.stringContaining("the model's context ends at 128"),
  ]);
  expect(await serve("--model", join(folder, "none"))).toEqual([
    1,
    expect.stringContaining("is no folder that can be read"),
  ]);
  expect(await serve(...model, "--origin", "chat.example")).toEqual([
    1,
    expect.stringContaining('"chat.example" is no origin'),
  ]);
  expect(await serve("--model", join(all, "no-model"))).toEqual([
    1,
    expect.stringContaining("there is no config.json"),
  ]);
  expect(await serve("--model", `x=${all}`)).toEqual([
    2,
    expect.stringContaining("holds 2 models"),
  ]);
  const keys = join(folder, "upstreams.txt");
  const upstream = ["--upstream", "http://127.0.0.1:1", "--upstream-keys", keys];
  await writeFile(keys, "http://127.0.0.1:1/v1 right\nsecret\n");
  expect(await serve(...upstream)).toEqual([2, expect.stringContaining('txt is not "URL KEY"')]);
  await writeFile(keys, "http://127.0.0.1:2 secret\n");
  const stray = await serve(...upstream);
  expect(stray).toEqual([2, expect.stringContaining("for an address that no --upstream gives")]);
  expect(stray[1]).not.toContain("secret");
  expect(await serve("--upstream", "127.0.0.1:1")).toEqual([
    1,
    expect.stringContaining("is no address of an upstream"),
  ]);
  expect(await serve("--model", all, ...model)).toEqual([
    1,
    expect.stringContaining('two are called "my-model"'),
  ]);
});

test("settings are printed without keys", async () => {
  const keys = { DSV3_API_KEY: "secret", DSV3_UPSTREAM_KEY: "secret" };
  const io = fakeIo({ ...keys, DSV3_SERVE_PORT: "1234" });
  const argv = ["serve", "--model", "anything", "--upstream", "http://x", "--print-config"];
  expect(await runCli(argv, io, commands, "0.0.0")).toBe(0);
  expect(JSON.parse(io.stdout.text)).toMatchObject({
    ...{ model: ["anything"], upstream: ["http://x"], port: 1234, "max-running": 16 },
    ...{ DSV3_API_KEY: "(hidden)", DSV3_UPSTREAM_KEY: "(hidden)" },
  });
  expect(io.stdout.text).not.toContain("secret");
});
