/** The libraries that serving is compared with, in a folder of their own: 120 MB that nobody else needs. */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = new URL("../contenders/serve/", import.meta.url);

/** The folder, its libraries installed if they were not. */
export function contenderFolder(): URL {
  if (!existsSync(new URL("node_modules/.package-lock.json", FOLDER))) {
    process.stderr.write("installing node-llama-cpp and web-xgrammar (120 MB) …\n");
    // Without scripts: node-llama-cpp's would build llama.cpp where it finds no binary. `npm ci` would
    // refuse a lock that leaves out binaries for other platforms.
    execFileSync("npm", ["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"], {
      cwd: fileURLToPath(FOLDER),
      stdio: ["ignore", 2, 2],
      shell: process.platform === "win32",
    });
  }
  return FOLDER;
}
