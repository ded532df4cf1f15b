import { execFile, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

const main = join(import.meta.dirname, "main.ts");
const { version } = JSON.parse(readFileSync(join(import.meta.dirname, "../package.json"), "utf8"));

function dsv3(...argv: string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...argv], (error, stdout, stderr) =>
      resolve({ code: error ? error.code : 0, stdout, stderr }),
    );
  });
}

it("starts from source, and prints nothing but its version", async () => {
  expect(await dsv3("--version")).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
});

it("exits with 2 for an unknown command", async () => {
  expect(await dsv3("no-such-command")).toMatchObject({ code: 2, stdout: "" });
});

it("ends quietly when the reader of its output goes away", async () => {
  const child = spawn(process.execPath, [main, "--help"], { stdio: ["ignore", "pipe", "pipe"] });
  child.stdout.destroy();
  let stderr = "";
  child.stderr.on("data", (data) => {
    stderr += data;
  });
  const code = await new Promise((resolve) => child.on("close", resolve));
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
});
