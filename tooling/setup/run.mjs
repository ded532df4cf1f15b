// The one door to everything in this repository: `node tooling/setup/run.mjs PROGRAM [ARGS]`.
// Needs only Node 20 and npm; no dependencies, and stdout belongs to the program alone.
//
//   PROGRAM ending in .ts   a file of the repository, run from source by the workspace's Node,
//                           in the folder where the user typed the command
//   anything else           a tool in node_modules/.bin, run by pnpm in the repository's root
//   nothing                 the packages are installed, and that is all
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { install, packageManager } from "./install.mjs";
import { findNode } from "./runtime.mjs";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

try {
  if (Number(process.versions.node.split(".")[0]) < 20) {
    throw new Error(
      `Node ${process.versions.node} is too old. Install Node 20 or newer (https://nodejs.org).`,
    );
  }
  install(root);
  const node = findNode(root);
  if (process.argv.length > 2) run(node, process.argv.slice(2));
} catch (error) {
  process.stderr.write(`dsv3: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}

/**
 * @param {string} node
 * @param {string[]} argv
 */
function run(node, [program = "", ...args]) {
  if (program.endsWith(".ts") && !existsSync(join(root, program))) {
    throw new Error(`this checkout has no ${program}, which the command would run.`);
  }
  const env = {
    ...process.env,
    PATH: [dirname(node), join(root, "node_modules", ".bin"), process.env.PATH].join(delimiter),
    TURBO_TELEMETRY_DISABLED: "1",
    DO_NOT_TRACK: "1",
    npm_config_loglevel: "error",
  };
  const child = program.endsWith(".ts")
    ? spawn(node, [join(root, program), ...args], {
        cwd: process.env.INIT_CWD ?? process.cwd(),
        env,
        stdio: "inherit",
      })
    : spawn("npx", ["-y", "--prefer-offline", packageManager(root), "exec", program, ...args], {
        cwd: root,
        env,
        stdio: "inherit",
        shell: process.platform === "win32",
      });

  // The program decides what a signal means (training saves first); we only wait and pass on.
  for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"])) {
    process.on(signal, () => child.kill(signal));
  }
  child.on("error", (error) => {
    process.stderr.write(`dsv3: could not start ${program}: ${error.message}\n`);
    process.exitCode = 1;
  });
  child.on("exit", (code, signal) => {
    process.exitCode = code ?? 128 + (signal ? constants.signals[signal] : 0);
  });
}
