import { existsSync, globSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** One package of the workspace, as the checks need it. */
export interface WorkspacePackage {
  /** Folder, relative to the root: "packages/tensor". */
  folder: string;
  name: string;
  manifest: {
    name: string;
    private?: boolean;
    version?: string;
    scripts?: Record<string, string>;
    exports?: Record<string, unknown>;
  };
}

/** Every package of the workspace at `root`, in the order of their folders. */
export function workspacePackages(root: string): WorkspacePackage[] {
  return globSync("{packages,apps,tooling}/*/package.json", { cwd: root })
    .sort()
    .map((file) => {
      const manifest = JSON.parse(readFileSync(join(root, file), "utf8"));
      return { folder: file.slice(0, -"/package.json".length), name: manifest.name, manifest };
    });
}

/**
 * Whether the package holds code of its own, and not just the `export {};` it was created with.
 */
export function hasSource(root: string, folder: string): boolean {
  return globSync("{src/**/*,*}.{ts,mjs}", { cwd: join(root, folder) })
    .filter((file) => !/\.(test|bench|config)\.ts$/.test(file))
    .some((file) => {
      const text = readFileSync(join(root, folder, file), "utf8");
      return text.replace(/export\s*\{\s*\};?/, "").trim() !== "";
    });
}

/** Reads a JSON file, or undefined if it is not there. */
export function readJson(path: string): unknown {
  return existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : undefined;
}
