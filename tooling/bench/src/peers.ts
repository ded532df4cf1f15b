/** The libraries that we compare with: 350 MB that nobody else needs, so in a folder of their own. */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = new URL("../contenders/", import.meta.url);

/** Modules of the peers, installed if they are not. */
export function peerModules(): URL[] {
  if (!existsSync(new URL("node_modules/.package-lock.json", FOLDER))) {
    process.stderr.write("installing the libraries to compare with (350 MB) …\n");
    // Without scripts: onnxruntime-node's would fetch CUDA.
    execFileSync("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], {
      cwd: fileURLToPath(FOLDER),
      stdio: ["ignore", 2, 2],
      shell: process.platform === "win32",
    });
  }
  return ["jax.mjs", "tfjs.mjs", "onnx.mjs"].map((file) => new URL(file, FOLDER));
}
