// Two questions about .changeset: does `changeset status` accept it (every changed package is named,
// every named package exists), and is each package that has code but was never released announced?
import { spawnSync } from "node:child_process";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { hasSource, workspacePackages } from "./workspace.ts";

const root = join(import.meta.dirname, "../..");

/** A clone of a single commit has no `main` to compare with; then only the files are checked. */
function baseline(): string {
  const exists = (ref: string) =>
    spawnSync("git", ["rev-parse", "--verify", "--quiet", `${ref}^{commit}`], { cwd: root })
      .status === 0;
  return ["main", "origin/main"].find(exists) ?? "HEAD";
}

const announced = new Set(
  globSync(".changeset/*.md", { cwd: root }).flatMap((file) => {
    const frontMatter = readFileSync(join(root, file), "utf8").split("---")[1] ?? "";
    return [...frontMatter.matchAll(/["']?(@?[\w./-]+)["']?\s*:/g)].map((match) => match[1]);
  }),
);
const silent = workspacePackages(root).filter(
  ({ folder, name, manifest }) =>
    !manifest.private &&
    manifest.version === "0.0.0" &&
    hasSource(root, folder) &&
    !announced.has(name),
);
for (const { name } of silent) {
  console.error(
    `${name} has code and was never released, but no changeset names it: run \`npm run changeset\`.`,
  );
}
const { status } = spawnSync("changeset", ["status", "--since", baseline()], {
  cwd: root,
  stdio: "inherit",
});
process.exitCode = silent.length > 0 ? 1 : (status ?? 1);
