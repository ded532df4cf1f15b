/**
 * Packs what a machine with a GPU, but without Node, packages or a network, needs to run this
 * repository's sources: `node src/pack.ts` makes the ignored folder `.gpu` in the root. Copy the
 * working tree and `.gpu` there; then `bash .gpu/setup.sh` and `.gpu/node tooling/gpu/src/check.ts`.
 */
import { execFileSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const out = join(root, ".gpu");
rmSync(out, { recursive: true, force: true });
mkdirSync(join(out, "node_modules"), { recursive: true });

execFileSync("sh", ["-c", 'xz -9 -T0 -c "$0" > "$1"', process.execPath, join(out, "node.xz")]);
// koffi's binary lies beside it in pnpm's store.
const koffi = realpathSync(join(root, "packages/backend-cuda/node_modules/koffi"));
const folders = {
  koffi,
  "@koromix/koffi-linux-x64": join(dirname(koffi), "@koromix/koffi-linux-x64"),
  zod: realpathSync(join(root, "packages/model/node_modules/zod")),
};
for (const [name, folder] of Object.entries(folders)) {
  cpSync(folder, join(out, "node_modules", name), {
    recursive: true,
    dereference: true,
    filter: (path) => name === "zod" || !/^\/(vendor|doc)(\/|$)/.test(path.slice(folder.length)),
  });
}

// Workspace packages find each other, and what was packed, from the root's node_modules.
const links = ["packages", "apps", "tooling"].flatMap((group) =>
  readdirSync(join(root, group)).flatMap((folder) => {
    const manifest = join(root, group, folder, "package.json");
    const { name } = JSON.parse(readFileSync(manifest, "utf8")) as { name: string };
    return name.startsWith("@dsv3/")
      ? [`ln -sfn ../../${group}/${folder} node_modules/${name}`]
      : [];
  }),
);
writeFileSync(
  join(out, "setup.sh"),
  `# Made by tooling/gpu/src/pack.ts; run in the root of the copied tree.
set -e
python3 -c "import lzma,shutil;shutil.copyfileobj(lzma.open('.gpu/node.xz'),open('.gpu/node','wb'))" || xz -dc .gpu/node.xz > .gpu/node
chmod +x .gpu/node
mkdir -p node_modules/@dsv3
cp -r .gpu/node_modules/. node_modules/
${links.join("\n")}
`,
);
console.log(execFileSync("du", ["-sh", out], { encoding: "utf8" }).trim());
