// Who may import whom: the settings of dependency-cruiser, made from one table.
// Run by `npm run check:layers`; layers.test.ts shows that each rule catches its violation.
import { existsSync, readdirSync } from "node:fs";

/** Each package, and the packages of ours that its sources may import. */
const LAYERS = {
  tensor: [],
  tokenizer: [],
  "backend-wasm": ["tensor"],
  "backend-cuda": ["tensor"],
  "backend-webgpu": ["tensor"],
  checkpoint: ["tensor"],
  data: ["tokenizer"],
  mla: ["tensor"],
  moe: ["tensor"],
  model: ["tensor", "mla", "moe", "checkpoint"],
  serve: ["tensor", "tokenizer", "checkpoint", "data", "mla", "moe", "model"],
  // Rollouts of reinforcement learning and the answers that are scored come from the serving engine.
  train: ["tensor", "tokenizer", "checkpoint", "data", "mla", "moe", "model", "serve"],
  eval: ["tensor", "tokenizer", "checkpoint", "data", "mla", "moe", "model", "serve"],
  planner: ["model"],
};

/** Packages that also run where there is no Node; only their files named node*.ts may need it. */
const BROWSER_CLEAN = ["tensor", "tokenizer", "mla", "moe"];

const TESTS = "\\.(test|bench)\\.ts$|/(bench|examples|testing)/";
const BACKEND = "^packages/backend-[^/]+/";

for (const name of existsSync("packages") ? readdirSync("packages") : []) {
  if (existsSync(`packages/${name}/package.json`) && !(name in LAYERS)) {
    throw new Error(
      `packages/${name} has no place in the table LAYERS of tooling/checks/layers.mjs: add it there, ` +
        "with the packages that it may import.",
    );
  }
}

const layerRules = Object.entries(LAYERS).map(([name, below]) => ({
  name: `layer-${name}`,
  comment: `${name} may import ${below.length ? below.join(", ") : "no other package of ours"}. Move the code down, or pass what is needed as an argument.`,
  severity: "error",
  from: { path: `^packages/${name}/` },
  // Imports of backends have a rule of their own, so that tests may choose one.
  to: { path: "^packages/", pathNot: [`^packages/(${[name, ...below].join("|")})/`, BACKEND] },
}));

export default {
  forbidden: [
    ...layerRules,
    {
      name: "backend-chosen-by-programs",
      comment:
        "Only an app, a test, a benchmark or a file default-backend.ts imports a backend: a library " +
        "works on whichever backend its caller chose.",
      severity: "error",
      from: { path: "^packages/", pathNot: [BACKEND, TESTS, "/default-backend\\.ts$"] },
      to: { path: BACKEND },
    },
    {
      name: "backend-imports-tensor-alone",
      comment: "A backend does not know of other backends, in tests neither.",
      severity: "error",
      from: { path: "^packages/(backend-[^/]+)/" },
      to: { path: BACKEND, pathNot: "^packages/$1/" },
    },
    {
      name: "checkpoint-needs-dtypes-only",
      comment: "checkpoint reads and writes bytes; of tensor it needs @dsv3/tensor/dtype alone.",
      severity: "error",
      from: { path: "^packages/checkpoint/src/", pathNot: TESTS },
      to: { path: "^packages/tensor/", pathNot: "^packages/tensor/src/dtype\\.ts$" },
    },
    {
      name: "libraries-below-apps",
      comment:
        "Packages are published alone: they import neither apps nor the repository's tooling.",
      severity: "error",
      from: { path: "^packages/[^/]+/src/" },
      to: { path: "^(apps|tooling)/" },
    },
    {
      name: "import-packages-by-name",
      comment:
        "Other packages are imported as @dsv3/name, through their public face, not by a path.",
      severity: "error",
      from: { path: "^(packages|apps)/([^/]+)/src/" },
      to: { path: "^(packages|apps)/", pathNot: "^$1/$2/", dependencyTypes: ["local"] },
    },
    {
      name: "browser-clean",
      comment:
        "This package also runs in browsers. Code that needs Node belongs in a file named node*.ts, " +
        "exported on its own.",
      severity: "error",
      from: {
        path: `^packages/(${BROWSER_CLEAN.join("|")})/src/`,
        pathNot: [TESTS, "/node[^/]*\\.ts$"],
      },
      to: { dependencyTypes: ["core"] },
    },
    {
      name: "tests-are-leaves",
      comment: "Nothing imports a test. Put what two tests share into a file of its own.",
      severity: "error",
      from: {},
      to: { path: "\\.test\\.ts$" },
    },
    {
      name: "no-cycles",
      comment:
        "Modules that need each other are one idea in two files, or need a third below them.",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    {
      name: "resolvable",
      comment: "The import leads nowhere: a misspelt path, or a dependency that is not declared.",
      severity: "error",
      from: {},
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    // tooling/bench/contenders has an install of its own, which comes with the first benchmark.
    exclude: { path: "(^|/)(dist|fixtures|__fixtures__)/|^tooling/bench/contenders/" },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "types"] },
  },
};
