/** Where NVIDIA's shared libraries are looked for, in order, without running anything. */
import { existsSync, readdirSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

/** A library of the CUDA toolkit, and what installs it. */
export interface LibraryName {
  /** File name without version: "libnvrtc.so". */
  readonly file: string;
  /** pip package and conda/apt hint shown when it is missing. */
  readonly install: string;
}

export const NVRTC: LibraryName = {
  file: "libnvrtc.so",
  install: "pip install nvidia-cuda-nvrtc (13.0 or later), or the CUDA toolkit",
};
export const CUBLASLT: LibraryName = {
  file: "libcublasLt.so",
  install: "pip install nvidia-cublas (13.0 or later), or the CUDA toolkit",
};

/** The parts of the world that the search reads; tests pass their own. */
export interface SearchWorld {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Names in a folder, or none when it can't be read. */
  list(folder: string): readonly string[];
  readonly home: string;
}

const realWorld: SearchWorld = {
  env: process.env,
  list(folder) {
    try {
      return existsSync(folder) ? readdirSync(folder) : [];
    } catch {
      return [];
    }
  },
  home: homedir(),
};

/** Newest version first: cuda-13.1 before cuda-13.0 before cuda-12. */
function newestFirst(names: readonly string[]): string[] {
  return [...names].sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
}

/** Folders that may hold CUDA libraries, most specific first. */
export function librarySearchPath(world: SearchWorld = realWorld): string[] {
  const { env } = world;
  const folders: string[] = [];
  const toolkit = (root: string) =>
    folders.push(join(root, "lib64"), join(root, "lib"), join(root, "targets/x86_64-linux/lib"));
  for (const name of ["CUDA_HOME", "CUDA_PATH"]) {
    const root = env[name];
    if (root) toolkit(root);
  }
  for (const folder of (env.LD_LIBRARY_PATH ?? "").split(":")) if (folder) folders.push(folder);
  for (const name of newestFirst(
    world.list("/usr/local").filter((n) => /^cuda(-[\d.]+)?$/.test(n)),
  ))
    toolkit(join("/usr/local", name));
  for (const site of sitePackages(world)) {
    const nvidia = join(site, "nvidia");
    for (const name of newestFirst(world.list(nvidia))) folders.push(join(nvidia, name, "lib"));
  }
  folders.push("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib");
  return [...new Set(folders)];
}

/** site-packages folders of the Pythons on PATH, of the active environment, and of the user. */
function sitePackages(world: SearchWorld): string[] {
  const { env } = world;
  const prefixes = [env.VIRTUAL_ENV, env.CONDA_PREFIX];
  for (const bin of (env.PATH ?? "").split(":"))
    if (bin.endsWith("/bin")) prefixes.push(dirname(bin));
  // Images often keep one environment under /opt: /opt/venv, /opt/torch/.venv.
  for (const name of world.list("/opt")) {
    prefixes.push(join("/opt", name), join("/opt", name, ".venv"), join("/opt", name, "venv"));
  }
  prefixes.push("/usr/local", "/usr", join(world.home, ".local"));
  const found: string[] = [];
  for (const prefix of prefixes) {
    if (!prefix) continue;
    for (const python of newestFirst(world.list(join(prefix, "lib")))) {
      if (!python.startsWith("python3")) continue;
      for (const packages of ["site-packages", "dist-packages"])
        found.push(join(prefix, "lib", python, packages));
    }
  }
  return [...new Set(found)];
}

/** Raised when a GPU, its driver or a library is missing; the message says what to do about it. */
export class CudaUnavailableError extends Error {
  override readonly name = "CudaUnavailableError";
}

/**
 * Full path of the newest version of a library in the first folder that has any.
 * @throws CudaUnavailableError naming every folder searched and what to install
 */
export function findLibrary(library: LibraryName, world: SearchWorld = realWorld): string {
  const folders = librarySearchPath(world);
  for (const folder of folders) {
    const versions = world
      .list(folder)
      .filter((name) => name === library.file || /^\.\d+$/.test(name.slice(library.file.length)))
      .filter((name) => name.startsWith(library.file));
    const [newest] = newestFirst(versions);
    if (newest !== undefined) return join(folder, newest);
  }
  throw new CudaUnavailableError(
    `${library.file} was not found. Install it (${library.install}), or set CUDA_HOME or ` +
      `LD_LIBRARY_PATH to where it is. Searched: ${folders.join(", ")}`,
  );
}
