// Three questions about .changeset: is every file well formed, does `changeset status` find every
// changed package named, and is each package that has code but was never released announced?
import { spawnSync } from "node:child_process";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { hasSource, workspacePackages } from "./workspace.ts";

const RELEASE = /^"(@[\w-]+\/[\w-]+)": (patch|minor|major)$/;

/**
 * The packages that a changeset names.
 * @throws {Error} that says what is wrong with the text
 */
export function readChangeset(text: string, known: readonly string[]): string[] {
  const [, head, summary = ""] = /^---\n(.*?)\n---\n(.*)$/s.exec(text) ?? [];
  if (head === undefined) throw new Error('must begin with lines ---, "@dsv3/name": minor, ---');
  if (summary.trim() === "") throw new Error("says nothing: add a sentence for users after ---");
  return head.split("\n").map((line) => {
    const [, name] = RELEASE.exec(line) ?? [];
    if (!name) throw new Error(`has the line ${line}, expected "@dsv3/name": patch|minor|major`);
    if (!known.includes(name)) throw new Error(`names ${name}, which is no published package`);
    return name;
  });
}

/** The branch to compare with; undefined on that branch itself, and in a clone that has no `main`. */
function baseline(root: string): string | undefined {
  const commit = (ref: string): string =>
    spawnSync("git", ["rev-parse", "--verify", "--quiet", `${ref}^{commit}`], {
      cwd: root,
      encoding: "utf8",
    }).stdout.trim();
  const base = ["main", "origin/main"].find((ref) => commit(ref) !== "");
  return base && commit(base) !== commit("HEAD") ? base : undefined;
}

if (import.meta.main) {
  const root = join(import.meta.dirname, "../..");
  const published = workspacePackages(root).filter(({ manifest }) => !manifest.private);
  const announced = new Set<string>();
  const complaints: string[] = [];
  for (const file of globSync(".changeset/*.md", { cwd: root }).sort()) {
    try {
      const text = readFileSync(join(root, file), "utf8");
      for (const name of readChangeset(
        text,
        published.map(({ name }) => name),
      )) {
        announced.add(name);
      }
    } catch (error) {
      complaints.push(`${file} ${(error as Error).message}`);
    }
  }
  for (const { folder, name, manifest } of published) {
    if (manifest.version === "0.0.0" && hasSource(root, folder) && !announced.has(name)) {
      complaints.push(
        `${name} has code and was never released, but no changeset names it: run \`npm run changeset\``,
      );
    }
  }
  for (const complaint of complaints) console.error(complaint);
  const base = baseline(root);
  const status = base
    ? spawnSync("changeset", ["status", "--since", base], { cwd: root, stdio: "inherit" }).status
    : 0;
  console.log(`${announced.size} of ${published.length} published packages have a changeset`);
  process.exitCode = complaints.length > 0 ? 1 : (status ?? 1);
}
