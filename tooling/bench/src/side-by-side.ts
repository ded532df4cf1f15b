/** The cases on every contender, in turns. */
import { type ChildProcess, fork } from "node:child_process";
import type { Case } from "./cases.ts";
import type { Answer } from "./contender.ts";
import type { Row } from "./part.ts";
import { formatTable } from "./table.ts";

export interface Measured {
  readonly name: string;
  /** Median milliseconds by contender, the best of the rounds; absent where it cannot do the case. */
  readonly milliseconds: Readonly<Record<string, number>>;
  /** Contenders whose result is not ours. */
  readonly otherResult: readonly string[];
  readonly errors: Readonly<Record<string, string>>;
  readonly flops?: number;
  readonly bytes?: number;
}

export interface SideBySide {
  /** Threads by contender, ours first. */
  readonly contenders: Readonly<Record<string, number>>;
  readonly cases: readonly Measured[];
}

/** A run as long as this is measured well enough once. */
const LONG_MS = 2000;

interface Contender {
  name: string;
  threads: number;
  process: ChildProcess;
}

/** Runs `rounds` turns of every case on every module, one process each, never two at once. */
export async function sideBySide(
  modules: readonly URL[],
  cases: readonly Case[],
  rounds: number,
  onProgress: (text: string) => void,
): Promise<SideBySide> {
  const contenders: Contender[] = [];
  try {
    for (const module of modules) contenders.push(await start(module));
    const measured: Measured[] = [];
    for (const task of cases) {
      onProgress(task.name);
      measured.push(await measureCase(contenders, task, rounds));
    }
    return {
      contenders: Object.fromEntries(contenders.map(({ name, threads }) => [name, threads])),
      cases: measured,
    };
  } finally {
    for (const { process } of contenders) process.kill();
  }
}

async function start(module: URL): Promise<Contender> {
  const process = fork(new URL("./contender.ts", import.meta.url), [module.href], {
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  return { ...((await answer(process)) as { name: string; threads: number }), process };
}

async function measureCase(
  contenders: readonly Contender[],
  task: Case,
  rounds: number,
): Promise<Measured> {
  const milliseconds: Record<string, number> = {};
  const errors: Record<string, string> = {};
  const results: Record<string, readonly number[]> = {};
  for (let round = 0; round < rounds; round++) {
    for (const { name, process } of contenders) {
      if (round > 0 && !(milliseconds[name]! < LONG_MS)) continue; // absent, or long enough
      process.send(task);
      const got = (await answer(process)) as Answer;
      if (got.error !== undefined) errors[name] = got.error;
      if (got.milliseconds === undefined) continue;
      milliseconds[name] = Math.min(
        milliseconds[name] ?? Number.POSITIVE_INFINITY,
        got.milliseconds,
      );
      results[name] = got.result!;
    }
  }
  const { name, flops, bytes } = task;
  const ours = results[contenders[0]!.name] ?? [];
  const otherResult = Object.keys(results).filter((peer) => !alike(results[peer]!, ours));
  return {
    name,
    milliseconds,
    otherResult,
    errors,
    ...(flops === undefined ? {} : { flops }),
    ...(bytes === undefined ? {} : { bytes }),
  };
}

/** The next message of a process; an error if it ends first. */
function answer(process: ChildProcess): Promise<unknown> {
  return new Promise((resolve, reject) => {
    let stderr = "";
    const onText = (chunk: Buffer): void => {
      stderr += chunk;
    };
    const settle = (finish: () => void): void => {
      process.off("message", onMessage).off("exit", onExit);
      process.stderr?.off("data", onText);
      finish();
    };
    const onMessage = (message: unknown): void => settle(() => resolve(message));
    const onExit = (): void =>
      settle(() => reject(new Error(`${process.spawnargs.at(-1)} ended:\n${stderr}`)));
    process.on("message", onMessage).on("exit", onExit);
    process.stderr?.on("data", onText);
  });
}

/** Equal but for the order of sums: f32 over a few thousand terms. */
export function alike(a: readonly number[], b: readonly number[]): boolean {
  return (
    a.length === b.length && a.every((x, i) => Math.abs(x - b[i]!) <= 1e-3 * (1 + Math.abs(b[i]!)))
  );
}

/** A table: a row for each case with times, our rate, and how many times as fast we are. */
export function formatSideBySide({ contenders, cases }: SideBySide): string {
  const names = Object.keys(contenders);
  const [ours, ...peers] = names as [string, ...string[]];
  const head = [
    "",
    `${ours}, ${contenders[ours]} thr.`,
    "rate",
    ...peers.map((peer) => `${peer}, ${contenders[peer]} thr.`),
  ];
  const rows = cases.map((c) => {
    const own = c.milliseconds[ours];
    return [
      c.name,
      own === undefined ? (c.errors[ours] ?? "–") : milliseconds(own),
      own === undefined ? "" : rateOf(c, own),
      ...peers.map((peer) => {
        const theirs = c.milliseconds[peer];
        if (theirs === undefined || own === undefined) return c.errors[peer] ? "error" : "–";
        const mark = c.otherResult.includes(peer) ? " (other result)" : "";
        return `${milliseconds(theirs)}  ${(theirs / own).toFixed(2).padStart(6)}×${mark}`;
      }),
    ];
  });
  return formatTable([head, ...rows]);
}

const milliseconds = (ms: number): string => `${ms.toPrecision(3)} ms`;

function rateOf({ flops, bytes }: Measured, ms: number): string {
  if (flops !== undefined) return `${(flops / ms / 1e6).toFixed(1)} GFLOP/s`;
  return bytes === undefined ? "" : `${(bytes / ms / 1e6).toFixed(1)} GB/s`;
}

/** The least times their speed that we expect of ours, by case and the beginning of a peer's name. */
const EXPECTED: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  "matmul 1024³": { "jax-js": 3.5, "tfjs-wasm": 3.5, onnxruntime: 0.45 },
};

/** What is expected of the cases that ran. */
export function expectations({ contenders, cases }: SideBySide): Row[] {
  const [ours, ...peers] = Object.keys(contenders) as [string, ...string[]];
  return cases.flatMap(({ name, milliseconds }) =>
    Object.entries(EXPECTED[name] ?? {}).flatMap(([start, expected]): Row[] => {
      const peer = peers.find((p) => p.startsWith(start));
      const own = milliseconds[ours];
      const theirs = peer === undefined ? undefined : milliseconds[peer];
      if (own === undefined || theirs === undefined) return [];
      return [{ name: `${name} beside ${peer}`, value: theirs / own, unit: "×", expected }];
    }),
  );
}
