import { readFileSync } from "node:fs";
import { defineConfig, type Options } from "tsup";

/** What each published package is built like; a package's tsup.config.ts is one call of this. */
export function library(overrides: Options = {}): ReturnType<typeof defineConfig> {
  return defineConfig({
    entry: sourceEntries(),
    format: ["esm"],
    dts: true,
    sourcemap: true,
    clean: true,
    target: "node22",
    ...overrides,
  });
}

/**
 * The sources that package.json names in `exports` and `bin` (which point at `src` in the
 * repository and, through `publishConfig`, at `dist` on npm): one list of entries, not two.
 */
function sourceEntries(): string[] {
  const { exports = {}, bin = {} } = JSON.parse(readFileSync("package.json", "utf8"));
  return [...Object.values(exports), ...Object.values(bin)].filter(
    (path): path is string => typeof path === "string" && path.endsWith(".ts"),
  );
}
