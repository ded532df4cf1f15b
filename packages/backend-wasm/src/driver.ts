/**
 * The scheduler, in WebAssembly: every thread runs `work`, which finds tasks of the current step,
 * calls their function, and, when it has done a step's last task, opens the next step.
 *
 * No thread ever waits for another to *arrive*: a step is over when its tasks are done, so a worker
 * that the system has put aside costs nothing but its help. Tasks are claimed in small ranges from
 * per-thread lines, one's own first (so that a thread meets the same data in step after step), then
 * from the others. A claim is a compare-and-swap on (ticket, next task): the ticket numbers the steps
 * of all runs, so a late thread cannot take a task of a step that it did not see.
 *
 * Opening a step writes the lines (with the new ticket) before `STEP`, and `TICKET` last: a thread
 * that still has an old ticket finds no line with it, whatever has become of its step's entry since.
 *
 * Steps for a single thread run at once on the thread that finished the step before, unseen by others.
 * A thread without work spins briefly and then sleeps in `memory.atomic.wait` on the ticket.
 */
import { atomicNotify, atomicWait, call, type Func, i32, i64, Module, type Value } from "./asm.ts";

/** How modules import the heap: any shared 32-bit memory will do. */
export const MEMORY_IMPORT = { initial: 1, maximum: 65536, shared: true } as const;

/** Addresses of the control words; each has a cache line to itself. */
export const CONTROL = {
  /** Number of the open step; it also changes when a run ends and when mail arrives. */
  ticket: 64,
  /** Address of the open step's entry, 0 between runs. */
  step: 128,
  /** Tasks of the open step that are done. */
  done: 192,
  /** Threads that sleep, and whether thread 0 is one of them. */
  sleepers: 256,
  mainSleeps: 320,
  /** Set when a thread has failed, or is to stop. */
  abort: 384,
  /** Modules published so far; address, length and table size of the newest; threads that have it. */
  mail: 448,
  mailAddress: 452,
  mailLength: 456,
  mailTableSize: 460,
  installed: 512,
  /** End of the running program's step table. */
  lastStep: 576,
  /** Address of the scratch memory shared by the phases of a kernel. */
  sharedScratch: 580,
  /** Text of a failed thread's error: length, then UTF-8. */
  error: 640,
  /** One line per thread: claim word (i64), then its scratch memory's address. */
  lines: 1024,
} as const;
export const LINE = 64;
const LINE_SCRATCH = 8;
export const ERROR_BYTES: number = CONTROL.lines - CONTROL.error - 4;
export const MAX_THREADS = 64;
/** Bytes at the start of memory that belong to the scheduler. */
export const CONTROL_BYTES: number = CONTROL.lines + LINE * MAX_THREADS;

/** An entry of a step table. */
export const STEP = {
  function: 0,
  params: 4,
  tasks: 8,
  /** Tasks to claim at a time; all of them: the step is for one thread. */
  grain: 12,
  /** Tasks that each thread's line starts with. */
  share: 16,
  bytes: 32,
} as const;

/** What `serve` returns for. */
export const SERVE = { mail: 1, stop: 2 } as const;

/** Looks at the ticket before sleeping: some 50 µs. */
const SPINS = 20_000;
const FOREVER = i64.const(-1);

/** Type of the functions in the table: (params, begin, end, threadScratch). */
export const KERNEL_PARAMS = ["i32", "i32", "i32", "i32"] as const;

/** Exports of the driver. */
export interface Driver {
  /** Runs the steps in [first, last) with the help of the other threads. 0, or 1 after an abort. */
  run(first: number, last: number, threads: number, maySleep: number): number;
  /** A worker's loop: helps with runs until mail arrives (`mail` ≠ seen) or it has to stop. */
  serve(thread: number, threads: number, seen: number): number;
}

/** The driver module. Its functions take the first places of the function table. */
export function driverModule(): Uint8Array<ArrayBuffer> {
  const m = new Module({ memory: MEMORY_IMPORT, table: { base: 0 } });
  const load = (address: number) => i32.atomicLoad(address);
  const store = (address: number, x: number | Value<"i32">) => i32.atomicStore(address, x);
  const lineOf = (thread: Value<"i32">) => i32.add(i32.mul(thread, LINE), CONTROL.lines);
  const callStep = (
    step: Value<"i32">,
    begin: Value<"i32">,
    end: Value<"i32">,
    line: Value<"i32">,
  ) =>
    m.callIndirect(
      KERNEL_PARAMS,
      "void",
      i32.load(step, STEP.function),
      i32.load(step, STEP.params),
      begin,
      end,
      i32.load(line, LINE_SCRATCH),
    );
  const wakeAll = (f: Func) => f.do(atomicNotify(CONTROL.ticket, -1));

  /** Runs steps for one thread, from `step` on; gives the first other one, or the end. */
  const runAlone = m.func("runAlone", ["i32", "i32"], "i32", (f, step, line) => {
    const last = f.keep(i32.load(CONTROL.lastStep));
    const tasks = f.local("i32");
    f.block((end) =>
      f.loop((again) => {
        f.brIf(end, i32.eq(step, last));
        f.set(tasks, i32.load(step, STEP.tasks));
        f.brIf(end, i32.ltU(i32.load(step, STEP.grain), tasks));
        f.do(callStep(step, i32.const(0), tasks, line));
        f.inc(step, STEP.bytes);
        f.br(again);
      }),
    );
    return step;
  });

  /** Opens a step for all threads; 0 closes the last one. */
  const open = m.func("open", ["i32", "i32"], "void", (f, step, threads) => {
    const ticket = f.keep(i32.add(load(CONTROL.ticket), 1));
    const tasks = f.keep(i32.load(step, STEP.tasks));
    const share = f.keep(i32.load(step, STEP.share));
    const thread = f.local("i32");
    const start = f.local("i32");
    const high = f.keep(i64.shl(i64.extendI32U(ticket), i64.const(32)));
    f.for(thread, 0, threads, 1, () => {
      f.set(start, i32.mul(thread, share));
      f.if(i32.gtU(start, tasks), () => f.set(start, tasks));
      f.do(i64.atomicStore(lineOf(thread), i64.or(high, i64.extendI32U(start))));
    });
    f.do(store(CONTROL.done, 0), store(CONTROL.step, step), store(CONTROL.ticket, ticket));
    f.if(
      step,
      () => f.if(load(CONTROL.sleepers), () => wakeAll(f)),
      () => f.if(load(CONTROL.mainSleeps), () => wakeAll(f)),
    );
  });

  /** Goes on after `step` is over: runs what is for one thread, opens the next for all, or ends the run. */
  const advance = m.func("advance", ["i32", "i32", "i32"], "void", (f, step, line, threads) => {
    f.set(step, call(runAlone, i32.add(step, STEP.bytes), line));
    f.if(i32.eq(step, i32.load(CONTROL.lastStep)), () => f.set(step, 0));
    f.do(call(open, step, threads));
  });

  /** Claims and does tasks of the open step until none is left (or the ticket is past). */
  const help = m.func(
    "help",
    ["i32", "i32", "i32", "i32"],
    "void",
    (f, step, ticket, thread, threads) => {
      const tasks = f.keep(i32.load(step, STEP.tasks));
      const grain = f.keep(i32.load(step, STEP.grain));
      const share = f.keep(i32.load(step, STEP.share));
      const mine = f.keep(lineOf(thread));
      const victim = f.local("i32", thread);
      const tries = f.local("i32");
      const line = f.local("i32");
      const limit = f.local("i32");
      const claim = f.local("i64");
      const begin = f.local("i32");
      const end = f.local("i32");
      f.for(tries, 0, threads, 1, () => {
        f.set(line, lineOf(victim));
        f.set(limit, i32.mul(i32.add(victim, 1), share));
        f.if(i32.gtU(limit, tasks), () => f.set(limit, tasks));
        f.block((usedUp) =>
          f.loop((again) => {
            f.set(claim, i64.atomicLoad(line));
            f.if(i32.ne(i32.wrapI64(i64.shrU(claim, i64.const(32))), ticket), () => f.return());
            f.set(begin, i32.wrapI64(claim));
            f.brIf(usedUp, i32.geU(begin, limit));
            f.set(end, i32.add(begin, grain));
            f.if(i32.gtU(end, limit), () => f.set(end, limit));
            const next = i64.add(claim, i64.extendI32U(i32.sub(end, begin)));
            f.brIf(again, i64.ne(i64.atomicCompareExchange(line, claim, next), claim));
            f.do(callStep(step, begin, end, mine));
            const amount = i32.sub(end, begin);
            const done = f.keep(i32.add(i32.atomicAdd(CONTROL.done, amount), amount));
            f.if(i32.eq(done, tasks), () => {
              f.do(call(advance, step, mine, threads));
              f.return();
            });
            f.br(again);
          }),
        );
        f.inc(victim, 1);
        f.if(i32.eq(victim, threads), () => f.set(victim, 0));
      });
    },
  );

  /** Returns when the ticket has changed, sooner now and then. */
  const pause = m.func("pause", ["i32", "i32", "i32"], "void", (f, ticket, main, maySleep) => {
    const spins = f.local("i32", SPINS);
    f.loop((again) => {
      f.if(i32.ne(load(CONTROL.ticket), ticket), () => f.return());
      f.inc(spins, -1);
      f.brIf(again, spins);
    });
    f.if(maySleep, () => {
      f.do(i32.atomicAdd(CONTROL.sleepers, 1));
      f.if(main, () => f.do(store(CONTROL.mainSleeps, 1)));
      f.do(atomicWait(CONTROL.ticket, ticket, FOREVER));
      f.if(main, () => f.do(store(CONTROL.mainSleeps, 0)));
      f.do(i32.atomicAdd(CONTROL.sleepers, -1));
    });
  });

  m.func("run", ["i32", "i32", "i32", "i32"], "i32", (f, first, last, threads, maySleep) => {
    f.do(i32.store(CONTROL.lastStep, last));
    const step = f.keep(call(runAlone, first, lineOf(i32.const(0))));
    f.if(i32.eq(step, last), () => f.return(i32.const(0)));
    f.do(call(open, step, threads));
    const ticket = f.local("i32");
    f.loop((again) => {
      f.set(ticket, load(CONTROL.ticket));
      f.if(load(CONTROL.abort), () => f.return(i32.const(1)));
      f.set(step, load(CONTROL.step));
      f.if(i32.eqz(step), () => f.return(i32.const(0)));
      f.do(call(help, step, ticket, i32.const(0), threads));
      f.do(call(pause, ticket, i32.const(1), maySleep));
      f.br(again);
    });
    return i32.const(0);
  });

  m.func("serve", ["i32", "i32", "i32"], "i32", (f, thread, threads, seen) => {
    const ticket = f.local("i32");
    const step = f.local("i32");
    f.loop((again) => {
      f.set(ticket, load(CONTROL.ticket));
      f.if(load(CONTROL.abort), () => f.return(i32.const(SERVE.stop)));
      f.if(i32.ne(load(CONTROL.mail), seen), () => f.return(i32.const(SERVE.mail)));
      f.set(step, load(CONTROL.step));
      f.if(step, () => f.do(call(help, step, ticket, thread, threads)));
      f.do(call(pause, ticket, i32.const(0), i32.const(1)));
      f.br(again);
    });
    return i32.const(0);
  });
  return m.bytes();
}
