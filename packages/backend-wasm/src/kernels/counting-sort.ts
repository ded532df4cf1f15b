/**
 * Stable counting sort in three phases: how often each bucket occurs in each block of ids; where each
 * block's share of each bucket starts; and each block puts its ids in place. Blocks have a fixed size,
 * whatever the number of threads. Ids outside the range form one bucket more, the last.
 */
import type { CountingSortKernel } from "@dsv3/tensor";
import { type Func, i32, type Local, memoryFill, select, type Value } from "../asm.ts";
import type { KernelCode, PhaseArguments } from "../kernel.ts";

const BLOCK = 2048;

export function countingSort(kernel: CountingSortKernel): KernelCode {
  const { n, buckets } = kernel;
  const blocks = Math.ceil(n / BLOCK);
  const table = 4 * (buckets + 1); // bytes of a block's counts, then places

  /** Runs `body` for every id of the task's blocks, with the address of its bucket's word. */
  const eachId = (
    f: Func,
    { slot, begin, end, sharedScratch }: PhaseArguments,
    start: (words: Local<"i32">) => void,
    body: (i: Local<"i32">, word: Local<"i32">) => void,
  ) => {
    const ids = f.keep(slot(kernel.ids));
    const tables = f.keep(sharedScratch());
    const block = f.local("i32");
    const i = f.local("i32");
    f.for(block, begin, end, 1, () => {
      const words = f.keep(i32.add(tables, i32.mul(block, table)));
      start(words);
      const first = f.keep(i32.mul(block, BLOCK));
      const last = f.local("i32", i32.add(first, BLOCK));
      f.if(i32.gtS(last, n), () => f.set(last, n));
      f.for(i, first, last, 1, () => {
        const id = f.keep(at(i32.load, ids, i));
        const bucket = select(id as Value<"i32">, i32.const(buckets), i32.ltU(id, buckets));
        body(i, f.keep(i32.add(words, i32.shl(bucket, 2))));
      });
    });
  };

  return {
    sharedScratch: blocks * table,
    phases: [
      {
        tasks: blocks,
        nanoseconds: n + blocks * buckets,
        emit: (f, args) =>
          eachId(
            f,
            args,
            (words) => f.do(memoryFill(words, 0, table)),
            (_, word) => f.do(i32.store(word, i32.add(i32.load(word), 1))),
          ),
      },
      {
        tasks: 1,
        nanoseconds: blocks * buckets,
        emit(f, { slot, sharedScratch }) {
          const offsets = f.keep(slot(kernel.offsets));
          const tables = f.keep(sharedScratch());
          const running = f.local("i32");
          const bucket = f.local("i32");
          const block = f.local("i32");
          f.for(bucket, 0, buckets + 1, 1, () => {
            f.do(i32.store(i32.add(offsets, i32.shl(bucket, 2)), running));
            const word = f.keep(i32.add(tables, i32.shl(bucket, 2)));
            f.for(block, 0, blocks, 1, () => {
              const count = f.keep(i32.load(word));
              f.do(i32.store(word, running));
              f.inc(running, count);
              f.inc(word, table);
            });
          });
        },
      },
      {
        tasks: blocks,
        nanoseconds: 2 * n,
        emit(f, args) {
          const order = f.keep(args.slot(kernel.order));
          const rank = f.keep(args.slot(kernel.rank));
          eachId(
            f,
            args,
            () => {},
            (i, word) => {
              const place = f.keep(i32.load(word));
              f.do(
                i32.store(word, i32.add(place, 1)),
                i32.store(i32.add(order, i32.shl(place, 2)), i),
                i32.store(i32.add(rank, i32.shl(i, 2)), place),
              );
            },
          );
        },
      },
    ],
  };
}

/** Loads word i of an array. */
function at(
  load: (address: Value<"i32">) => Value<"i32">,
  base: Value<"i32">,
  i: Value<"i32">,
): Value<"i32"> {
  return load(i32.add(base, i32.shl(i, 2)));
}
