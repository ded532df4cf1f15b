/**
 * Packs what a machine with a GPU, but without Node, packages or a network, needs to run this
 * repository's sources: `node src/pack.ts` makes the ignored folder `.gpu` in the root. Copy the
 * working tree and `.gpu` there; then `bash .gpu/setup.sh` and `.gpu/node tooling/gpu/src/check.ts`.
 */
import { execFileSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const out = join(root, ".gpu");
rmSync(join(out, "node_modules"), { recursive: true, force: true });
mkdirSync(join(out, "node_modules"), { recursive: true });

// Compressing takes minutes, so what was packed of this version stays.
const node = `node-${process.version}.xz`;
if (!existsSync(join(out, node))) {
  execFileSync("sh", [
    "-c",
    'xz -9 -T0 -c "$0" > "$1.new" && mv "$1.new" "$1"',
    process.execPath,
    join(out, node),
  ]);
}
// What the program's packages need besides each other: side by side, but a second version of a package
// in the folder of the one that needs it.
const GROUPS = ["packages", "apps", "tooling"];
const packed = new Map<string, string>();
for (const group of ["packages", "apps"]) {
  for (const folder of readdirSync(join(root, group))) {
    pack(join(root, group, folder), join(root, group, folder, "node_modules"));
  }
}

/** Copies what the package in a folder depends on, and what that depends on. */
function pack(folder: string, beside: string, own = out): void {
  const { dependencies = {}, optionalDependencies = {} } = manifestOf(folder);
  for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
    const link = join(beside, name);
    // The demo's texts are larger than all the rest.
    if (/^@(dsv3|stdlib)\//.test(name) || !existsSync(link)) continue;
    const found = realpathSync(link);
    const before = packed.get(name);
    if (before === found) continue;
    if (before === undefined) packed.set(name, found);
    const to = join(before === undefined ? out : own, "node_modules", name);
    if (existsSync(to)) continue;
    const skipped = name === "koffi" ? /^\/(vendor|doc)(\/|$)/ : /^\/node_modules(\/|$)|\.map$/;
    cpSync(found, to, {
      recursive: true,
      dereference: true,
      filter: (path) => !skipped.test(path.slice(found.length)),
    });
    // In pnpm's store, what a package needs lies beside it.
    pack(found, found.slice(0, found.length - name.length), to);
  }
}

function manifestOf(
  folder: string,
): Partial<Record<string, Record<string, string>>> & { name?: string } {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
}

execFileSync("tar", ["-cJf", join(out, "node_modules.tar.xz"), "-C", out, "node_modules"]);
rmSync(join(out, "node_modules"), { recursive: true });

// Workspace packages find each other, and what was packed, from the root's node_modules.
const links = GROUPS.flatMap((group) =>
  readdirSync(join(root, group)).flatMap((folder) => {
    const { name } = manifestOf(join(root, group, folder));
    return String(name).startsWith("@dsv3/")
      ? [`ln -sfn ../../${group}/${folder} node_modules/${name}`]
      : [];
  }),
);
writeFileSync(
  join(out, "setup.sh"),
  `# Made by tooling/gpu/src/pack.ts; run in the root of the copied tree.
set -e
python3 -c "import lzma,shutil;shutil.copyfileobj(lzma.open('.gpu/${node}'),open('.gpu/node','wb'))" || xz -dc .gpu/${node} > .gpu/node
chmod +x .gpu/node
python3 -c "import tarfile;tarfile.open('.gpu/node_modules.tar.xz').extractall('.', filter='data')"
mkdir -p node_modules/@dsv3
${links.join("\n")}
`,
);
console.log(execFileSync("du", ["-sh", out], { encoding: "utf8" }).trim());
