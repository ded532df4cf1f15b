import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";

const config = join(import.meta.dirname, "layers.mjs");
const depcruise = join(import.meta.dirname, "../../node_modules/.bin/depcruise");
let root = "";

beforeEach(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), "dsv3-layers-")));
});
afterEach(() => rmSync(root, { recursive: true }));

/** A small workspace of the given files, where packages find each other as under pnpm. */
function workspace(files: Record<string, string>): void {
  const modules = join(root, "node_modules/@dsv3");
  mkdirSync(modules, { recursive: true });
  for (const name of [
    "tensor",
    "mla",
    "moe",
    "model",
    "checkpoint",
    "backend-wasm",
    "backend-cuda",
  ]) {
    const manifest = {
      name: `@dsv3/${name}`,
      exports: { ".": "./src/index.ts", "./dtype": "./src/dtype.ts" },
    };
    mkdirSync(join(root, "packages", name, "src"), { recursive: true });
    writeFileSync(join(root, "packages", name, "package.json"), JSON.stringify(manifest));
    writeFileSync(join(root, "packages", name, "src/index.ts"), "export {};\n");
    writeFileSync(join(root, "packages", name, "src/dtype.ts"), "export {};\n");
    symlinkSync(join(root, "packages", name), join(modules, name));
  }
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
}

/** Violations as "rule file", sorted. */
function check(): string[] {
  const { stdout, stderr } = spawnSync(
    depcruise,
    ["--config", config, "--output-type", "json", "packages"],
    { cwd: root, encoding: "utf8", maxBuffer: 1 << 26 },
  );
  if (!stdout) throw new Error(stderr);
  const violations: { rule: { name: string }; from: string }[] =
    JSON.parse(stdout).summary.violations;
  return violations.map(({ rule, from }) => `${rule.name} ${from}`).sort();
}

it("accepts imports that follow the table", () => {
  workspace({
    "packages/model/src/index.ts":
      'import "@dsv3/mla";\nimport "@dsv3/tensor";\nimport "node:fs";\n',
    "packages/model/src/default-backend.ts": 'import "@dsv3/backend-wasm";\n',
    "packages/mla/src/mla.test.ts": 'import "@dsv3/backend-wasm";\nimport "node:fs";\n',
    "packages/checkpoint/src/index.ts": 'import "@dsv3/tensor/dtype";\n',
    "packages/tensor/src/node.ts": 'import "node:fs";\n',
    "packages/tensor/src/a.ts": 'import type { B } from "./b.ts";\nexport const a = 1;\n',
    "packages/tensor/src/b.ts": 'import { a } from "./a.ts";\nexport type B = typeof a;\n',
  });
  expect(check()).toEqual([]);
}, 30_000);

it("names the rule and the file of each violation", () => {
  workspace({
    "packages/mla/src/up.ts": 'import "@dsv3/model";\n',
    "packages/mla/src/types-too.ts": 'import type { X } from "@dsv3/moe";\n',
    "packages/mla/src/up.test.ts": 'import "@dsv3/model";\n',
    "packages/model/src/backend.ts": 'import "@dsv3/backend-wasm";\n',
    "packages/backend-cuda/src/other.ts": 'import "@dsv3/backend-wasm";\n',
    "packages/checkpoint/src/arrays.ts": 'import "@dsv3/tensor";\n',
    "packages/model/src/app.ts": 'import "../../../apps/cli/src/main.ts";\n',
    "apps/cli/src/main.ts": "export {};\n",
    "packages/model/src/deep.ts": 'import "../../mla/src/index.ts";\n',
    "packages/tensor/src/files.ts": 'import "node:fs";\n',
    "packages/tensor/src/uses-test.ts": 'import "./x.test.ts";\n',
    "packages/tensor/src/x.test.ts": "export {};\n",
    "packages/tensor/src/a.ts": 'import { b } from "./b.ts";\nexport const a = (): unknown => b;\n',
    "packages/tensor/src/b.ts": 'import { a } from "./a.ts";\nexport const b = (): unknown => a;\n',
    "packages/tensor/src/lost.ts": 'import "./nowhere.ts";\n',
  });
  expect(check()).toEqual([
    "backend-chosen-by-programs packages/model/src/backend.ts",
    "backend-imports-tensor-alone packages/backend-cuda/src/other.ts",
    "browser-clean packages/tensor/src/files.ts",
    "checkpoint-needs-dtypes-only packages/checkpoint/src/arrays.ts",
    "import-packages-by-name packages/model/src/app.ts",
    "import-packages-by-name packages/model/src/deep.ts",
    "layer-mla packages/mla/src/types-too.ts",
    "layer-mla packages/mla/src/up.test.ts",
    "layer-mla packages/mla/src/up.ts",
    "libraries-below-apps packages/model/src/app.ts",
    "no-cycles packages/tensor/src/a.ts",
    "resolvable packages/tensor/src/lost.ts",
    "tests-are-leaves packages/tensor/src/uses-test.ts",
  ]);
}, 30_000);

it("refuses a package that has no place in the table", () => {
  workspace({ "packages/surprise/package.json": "{}" });
  expect(() => check()).toThrow(/packages\/surprise has no place in the table/);
}, 30_000);
