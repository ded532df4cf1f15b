/**
 * Runs Python that a model wrote, in a process of its own with limits. This keeps mistakes and
 * accidents in; it is no wall against an attacker: run it where nothing is to be lost, as in a container.
 */
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { Places } from "./places.ts";

export interface PythonOptions {
  /** The interpreter; `python3` unless given. */
  readonly python?: string;
  /** From the program's first line on; 3 unless given, as in the harness. */
  readonly seconds?: number;
  /** Of address space, where the system can limit it; 1 GiB unless given. */
  readonly memoryBytes?: number;
  readonly signal?: AbortSignal;
}

export interface PythonRun {
  /** Whether the program ran to its end without an error. */
  readonly passed: boolean;
  /** "passed", "timed out", or the last line of what went wrong. */
  readonly result: string;
}

/** What a program may write to its standard error before it is ended. */
const MAX_OUTPUT = 1 << 16;

/** For the interpreter to start, on a busy machine too. */
const START_SECONDS = 30;

/** What the guard says when the program begins. */
const BEGUN = ".";

/** A program beside as many others as there are processors would run out of its time. */
const places = new Places(availableParallelism());

/**
 * Takes the program and a password from standard input, sets limits that it cannot raise again, and
 * says the password once the program has come to its end: one that exits early does not pass. The audit
 * hook, which cannot be taken away either, refuses files (but for imports), processes and sockets.
 */
const GUARD = `
import builtins, json, os, sys
job = json.loads(sys.stdin.buffer.read())
say = os.dup(1)
try:
    import resource as r
    def limit(kind, value):
        try: r.setrlimit(kind, (value, value))
        except (ValueError, OSError): pass
    limit(r.RLIMIT_CPU, int(job["seconds"]) + 1)
    limit(r.RLIMIT_FSIZE, 0)
    limit(r.RLIMIT_CORE, 0)
    limit(r.RLIMIT_AS, job["memory"])
    if hasattr(r, "RLIMIT_NPROC"): limit(r.RLIMIT_NPROC, 0)
except ImportError:
    pass
quiet = os.open(os.devnull, os.O_RDWR)
os.dup2(quiet, 0)
os.dup2(quiet, 1)
roots = tuple(os.path.realpath(p) for p in sys.path if p)
refused = ("os.", "shutil.", "subprocess.", "socket.", "ctypes.", "signal.", "pty.", "winreg.",
           "ftplib.", "http.", "urllib.", "smtplib.", "webbrowser.", "tempfile.", "glob.", "syslog.")
reading = ("os.listdir", "os.scandir", "os.fwalk", "os.walk")
def hook(event, args, inside=os.path.realpath, read=os.O_RDONLY, kinds=os.O_ACCMODE):
    if event == "open":
        path, mode, flags = args
        known = isinstance(path, str) and inside(path).startswith(roots)
        writes = isinstance(flags, int) and flags & kinds != read
        if known and not writes: return
        raise PermissionError("the sandbox has no files")
    if event in reading and args and isinstance(args[0], str) and inside(args[0]).startswith(roots):
        return
    if event.startswith(refused):
        raise PermissionError("the sandbox does not allow " + event)
sys.addaudithook(hook)
code = compile(job["program"], "<answer>", "exec")
write = os.write
del os._exit, os.kill
write(say, b".")
exec(code, {})
write(say, job["password"].encode())
`;

/** @throws Error if the interpreter cannot be started, saying what to install */
export async function checkPython(python = "python3"): Promise<void> {
  const run = await runPython("pass", { python });
  if (!run.passed) throw new Error(`${python} does not run in the sandbox: ${run.result}`);
}

/**
 * Runs a program to its end, or until one of its limits.
 * @throws Error if the interpreter cannot be started; the signal's reason when that is aborted
 */
export async function runPython(program: string, options: PythonOptions = {}): Promise<PythonRun> {
  const { python = "python3", seconds = 3, memoryBytes = 2 ** 30, signal } = options;
  signal?.throwIfAborted();
  return places.take(async () => {
    const folder = await mkdtemp(join(tmpdir(), "dsv3-python-"));
    const password = randomUUID();
    try {
      const { code, out, error, ended } = await execute(python, folder, seconds, signal, {
        ...{ program, password, seconds, memory: memoryBytes },
      });
      signal?.throwIfAborted();
      if (ended !== undefined) return { passed: false, result: ended };
      if (code === 0 && out === BEGUN + password) return { passed: true, result: "passed" };
      const last = error.trimEnd().split("\n").at(-1) ?? "";
      return { passed: false, result: last || `ended early, with code ${code}` };
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
}

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly error: string;
  /** Why it was ended from outside. */
  readonly ended?: string;
}

function execute(
  python: string,
  cwd: string,
  seconds: number,
  signal: AbortSignal | undefined,
  job: object,
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    // Isolated: no environment, no user's packages, nothing from the working folder. Detached: whatever
    // it starts is in its group, and is killed with it.
    const child = spawn(python, ["-I", "-B", "-c", GUARD], {
      ...{ cwd, detached: process.platform !== "win32", windowsHide: true },
      env: { PATH: process.env.PATH, SYSTEMROOT: process.env.SYSTEMROOT, PYTHONHASHSEED: "0" },
      stdio: ["pipe", "pipe", "pipe"],
    });
    let [out, error] = ["", ""];
    let ended: string | undefined;
    const kill = (why: string) => {
      ended ??= why;
      try {
        if (process.platform === "win32" || child.pid === undefined) child.kill("SIGKILL");
        else process.kill(-child.pid, "SIGKILL");
      } catch {
        // It is gone already.
      }
    };
    let timer = setTimeout(() => kill("did not start"), START_SECONDS * 1000);
    const abort = () => kill("aborted");
    signal?.addEventListener("abort", abort, { once: true });
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (out === "") {
        clearTimeout(timer);
        timer = setTimeout(() => kill("timed out"), seconds * 1000);
      }
      out += text;
      if (out.length > MAX_OUTPUT) kill("wrote too much");
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      error += text;
      if (error.length > MAX_OUTPUT) kill("wrote too much");
    });
    const finish = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
    child.on("error", (cause: NodeJS.ErrnoException) => {
      finish();
      const message =
        cause.code === "ENOENT"
          ? `there is no ${python}: this task runs Python programs; install Python 3.8 or newer`
          : `cannot start ${python}`;
      reject(new Error(message, { cause }));
    });
    child.on("close", (code) => {
      finish();
      resolve(ended === undefined ? { code, out, error } : { code, out, error, ended });
    });
    // It may end before it has read everything.
    child.stdin.on("error", () => {});
    child.stdin.end(JSON.stringify(job));
  });
}
