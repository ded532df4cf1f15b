// Installs the workspace when, and only when, what it is made from has changed.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Folders whose children are workspace packages, as in pnpm-workspace.yaml. */
const WORKSPACE_FOLDERS = ["packages", "apps", "tooling"];

/**
 * A hash of everything that decides what `pnpm install` would do here: the lockfile, the workspace
 * settings, every manifest, and the platform.
 * @param {string} root
 * @returns {string}
 */
export function fingerprint(root) {
  const hash = createHash("sha256").update(`${process.platform}-${process.arch}\n`);
  for (const file of [
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    "package.json",
    ...manifests(root),
  ]) {
    const path = join(root, file);
    hash.update(`${file}\n`).update(existsSync(path) ? readFileSync(path) : "absent");
  }
  return hash.digest("hex");
}

/** @param {string} root @returns {string[]} */
function manifests(root) {
  return WORKSPACE_FOLDERS.filter((folder) => existsSync(join(root, folder)))
    .flatMap((folder) =>
      readdirSync(join(root, folder)).map((name) => join(folder, name, "package.json")),
    )
    .filter((file) => existsSync(join(root, file)))
    .sort();
}

/** @param {string} root @returns {string} such as "pnpm@12.21.0" */
export function packageManager(root) {
  return JSON.parse(readFileSync(join(root, "package.json"), "utf8")).packageManager;
}

/**
 * Makes `node_modules` match the lockfile. Quick when it already does: a stamp in `node_modules`
 * holds the fingerprint of the last install that ended well. All output goes to stderr.
 * @param {string} root
 * @returns {void}
 */
export function install(root) {
  const stamp = join(root, "node_modules", ".dsv3-setup");
  const wanted = fingerprint(root);
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;

  process.stderr.write(`dsv3: installing packages (${packageManager(root)})\n`);
  const { status, error } = spawnSync(
    "npx",
    ["-y", "--prefer-offline", packageManager(root), "install", "--frozen-lockfile"],
    // CI: never ask anything, even where an old node_modules has to be replaced. The log level:
    // errors are told even under `npm run -s`, which silences npx too.
    {
      cwd: root,
      env: { ...process.env, CI: "true", npm_config_loglevel: "error" },
      stdio: ["ignore", 2, 2],
      shell: process.platform === "win32",
    },
  );
  if (error) {
    throw new Error(
      `could not run npx (${error.message}). It comes with npm: install Node 20 or newer from ` +
        "https://nodejs.org, npm included, and try again.",
    );
  }
  if (status !== 0) {
    throw new Error(
      [
        `installing packages failed (pnpm exited with ${status}; its messages stand above).`,
        "- No network, or a proxy: check that `npm ping` answers, then try again.",
        `- "lockfile is not up to date": a package.json was edited; run \`npx ${packageManager(root)} install\`.`,
        "- Anything else: delete the node_modules folders (`git clean -xdf -e runs`) and try again.",
      ].join("\n"),
    );
  }
  mkdirSync(join(root, "node_modules"), { recursive: true });
  writeFileSync(stamp, wanted);
}
