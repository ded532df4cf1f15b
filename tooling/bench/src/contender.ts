/**
 * One library in a process of its own: `node contender.ts MODULE` talks with its parent by messages.
 * It is asked for one case at a time, so that contenders take turns and none works in the background.
 */
import { performance } from "node:perf_hooks";
import { widenVectors } from "@dsv3/backend-wasm";
import type { Case } from "./cases.ts";

/** A case made ready. */
export interface Prepared {
  /** One run, complete when it returns (or resolves). */
  run(): void | Promise<void>;
  /** Some numbers of the result (a training step: the losses of its first steps), for comparison. */
  result(): Promise<ArrayLike<number>>;
  dispose?(): void;
}

/** What a contender's module exports as `library`. */
export interface Library {
  /** Name and version. */
  readonly name: string;
  readonly threads: number;
  /** Undefined where the library cannot do the case. */
  prepare(task: Case): Promise<Prepared | undefined>;
}

export interface Answer {
  /** Median time of a run in milliseconds; absent where the library cannot do it. */
  milliseconds?: number;
  result?: number[];
  error?: string;
}

/** How long a case is measured in one turn. */
const TURN_MS = 400;

if (import.meta.main) {
  // Before any of them compiles: what the engine can do for one, it does for all.
  await widenVectors();
  const { library } = (await import(process.argv[2]!)) as { library: Library };
  process.send!({ name: library.name, threads: library.threads });
  process.on("message", (task: Case) => {
    measure(library, task).then(
      (answer) => process.send!(answer),
      (error: Error) => process.send!({ error: error.message }),
    );
  });
}

export async function measure(library: Library, task: Case, turnMs = TURN_MS): Promise<Answer> {
  const prepared = await library.prepare(task);
  if (prepared === undefined) return {};
  const result = Array.from(await prepared.result()).slice(0, 8);
  const times: number[] = [];
  // As long again to warm up: engines replace code by better code while it runs.
  for (const keep of [false, true]) {
    const end = performance.now() + turnMs;
    for (let runs = 0; runs < 1 || performance.now() < end; runs++) {
      const start = performance.now();
      await prepared.run();
      if (keep) times.push(performance.now() - start);
      // Compiled code comes in between tasks.
      if (runs % 16 === 0) await new Promise((resolve) => setTimeout(resolve));
    }
  }
  prepared.dispose?.();
  return { milliseconds: times.sort((a, b) => a - b)[times.length >> 1]!, result };
}
