// Packs every package that is published, as `pnpm publish` would, and asks publint and attw
// ("are the types wrong?") about the tarball. Needs `npm run build` before it.
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { type WorkspacePackage, workspacePackages } from "./workspace.ts";

const root = join(import.meta.dirname, "../..");
const scratch = mkdtempSync(join(tmpdir(), "dsv3-pack-"));

/** Runs a program in `cwd`; returns what it printed if it failed, and nothing if all is well. */
function complaint(cwd: string, program: string, ...args: string[]): Promise<string | undefined> {
  return new Promise((resolve) => {
    execFile(program, args, { cwd, encoding: "utf8" }, (error, stdout, stderr) =>
      resolve(
        error
          ? `${program} ${args.join(" ")}\n${stdout}${stderr}${stdout || stderr ? "" : error}`
          : undefined,
      ),
    );
  });
}

/** Everything that is wrong with one package's tarball. */
async function check({ folder, name, manifest }: WorkspacePackage): Promise<string[]> {
  const cwd = join(root, folder);
  if (!existsSync(join(cwd, "dist"))) return ["no dist folder: run `npm run build` first"];
  const destination = join(scratch, name.replace("/", "-"));
  const notPacked = await complaint(cwd, "pnpm", "pack", "--pack-destination", destination);
  if (notPacked) return [notPacked];
  const tarball = join(destination, readdirSync(destination)[0]!);
  const complaints = [await complaint(cwd, "publint", "run", tarball, "--strict")];
  // A package that is only a program has no types to be wrong.
  if (manifest.exports?.["."]) {
    complaints.push(await complaint(cwd, "attw", tarball, "--profile", "esm-only"));
  }
  return complaints.filter((text) => text !== undefined);
}

const queue = workspacePackages(root).filter(({ manifest }) => !manifest.private);
const total = queue.length;
let bad = 0;

async function worker(): Promise<void> {
  for (let next = queue.shift(); next; next = queue.shift()) {
    const complaints = await check(next);
    for (const text of complaints) console.error(`\n${next.name}: ${text.trimEnd()}`);
    if (complaints.length > 0) bad++;
  }
}

try {
  await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, worker));
} finally {
  rmSync(scratch, { recursive: true });
}
console.log(`${total - bad} of ${total} packages are ready for npm (publint, attw)`);
process.exitCode = bad > 0 || total === 0 ? 1 : 0;
