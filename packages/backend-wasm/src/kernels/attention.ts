/**
 * Attention in one pass over the keys (online softmax), with queries in the lanes of vectors. Rows,
 * which are queries of heads that share a key head, go through the keys in panels of 8: many rows by
 * tasks that go through all keys; few, as in decoding, by tasks that go through a part of them each,
 * whose states a second phase merges. Keys are summed in parts either way: results are the same.
 */
import type { AttentionKernel } from "@dsv3/tensor";
import { type Func, i32, type Local, type Value } from "../asm.ts";
import type { KernelCode, Phase, PhaseArguments, Target } from "../kernel.ts";
import { scoreBlock, tileSums, weightBlock } from "./attention-block.ts";
import { type KeyReader, keyReader } from "./attention-keys.ts";
import {
  finishPanel,
  mergeState,
  type Panel,
  packQueries,
  type Rows,
  seePanel,
  startState,
} from "./attention-panel.ts";
import { type Plan, planAttention, WANTED_TASKS } from "./attention-plan.ts";
import { LANES, lengthOf, mostSeen } from "./attention-view.ts";

const align = (bytes: number) => Math.ceil(bytes / 64) * 64;

/** What the phases of one kernel share. */
interface Job {
  readonly kernel: AttentionKernel;
  readonly target: Target;
  readonly plan: Plan;
  readonly reader: KeyReader;
  /** Places in thread scratch: scores of a block, and the panels, one after another. */
  readonly scoresAt: number;
  readonly panelsAt: number;
}

export function attention(kernel: AttentionKernel, target: Target): KernelCode {
  const { batch, queries, keys, heads, qkWidth, vWidth } = kernel;
  if (batch === 0 || queries === 0 || heads === 0) return { phases: [] };
  const plan = planAttention(kernel);
  const reader = keyReader(kernel, plan.block);
  const scoresAt = align(reader.bytes);
  const panelsAt = scoresAt + align((plan.block + 1) * LANES * 4);
  const job: Job = { kernel, target, plan, reader, scoresAt, panelsAt };
  const work = batch * heads * queries * keys * (qkWidth + vWidth + 8);
  const nanoseconds =
    work / (target.relaxedSimd ? 20 : 10) / (kernel.causal && queries > 1 ? 2 : 1);
  const { taskPanels, inputBytes } = plan;
  if (!plan.split) {
    return {
      phases: [wholePhase(job, nanoseconds)],
      threadScratch: panelsAt + taskPanels * panelBytes(plan),
    };
  }
  return {
    phases: [partsPhase(job, nanoseconds), mergePhase(job)],
    threadScratch: panelsAt + Math.max(taskPanels * inputBytes, panelBytes(plan)),
    sharedScratch: plan.allStateBytes,
  };
}

/** A panel in thread scratch: its queries, its state of a part, and that of all parts before. */
const panelBytes = ({ inputBytes, stateBytes, parts }: Plan) =>
  inputBytes + stateBytes * (parts > 1 ? 2 : 1);

/** Every task takes its rows through all keys. */
function wholePhase({ plan, ...job }: Job, nanoseconds: number): Phase {
  const { kernel, target } = job;
  const { outer, chunks, taskPanels, inputBytes, stateBytes, partKeys, parts } = plan;
  return {
    tasks: kernel.batch * outer * chunks,
    nanoseconds,
    emit(f, args) {
      const task = f.local("i32");
      const sums = tileSums(f, job.target);
      const panelsAt = f.keep(i32.add(args.threadScratch, job.panelsAt));
      f.for(task, args.begin, args.end, 1, () => {
        const which = f.keep(i32.divU(task, chunks));
        const rows = rowsOf(f, args, kernel, plan, {
          batch: f.keep(i32.divU(which, outer)),
          which: i32.remU(which, outer),
        });
        const firstRow = f.keep(i32.mul(i32.remU(task, chunks), taskPanels * LANES));
        const most = f.local("i32", -1);
        const at = f.local("i32");
        const [state, total] = [f.local("i32"), f.local("i32")];
        const each = (body: (panel: Panel) => void) =>
          eachPanel(f, plan, firstRow, (panel, index) => {
            f.set(at, i32.add(panelsAt, i32.mul(index, panelBytes(plan))));
            f.set(state, i32.add(at, inputBytes));
            f.set(total, parts > 1 ? i32.add(state, stateBytes) : state);
            body(panel);
          });
        each((panel) => {
          packQueries(f, args, kernel, plan, rows, panel, at);
          const sight = f.keep(i32.add(at, plan.sightAt));
          seePanel(f, args, kernel, plan, rows, panel, sight);
          f.if(i32.gtS(mostSeen(sight), most), () => f.set(most, mostSeen(sight)));
          startState(f, plan, total);
        });
        const key = f.local("i32", 0);
        const end = f.local("i32");
        f.while(i32.leS(key, most), () => {
          if (parts > 1) each(() => startState(f, plan, state));
          f.set(end, i32.add(most, 1));
          const partEnd = f.keep(i32.add(key, partKeys));
          f.if(i32.gtS(end, partEnd), () => f.set(end, partEnd));
          attendKeys(f, args, { plan, ...job }, { sums, rows, firstRow, key, end }, (index) => {
            const panelAt = f.keep(i32.add(panelsAt, i32.mul(index, panelBytes(plan))));
            return { panelAt, stateAt: f.keep(i32.add(panelAt, inputBytes)) };
          });
          if (parts > 1) each(() => mergeState(f, target, kernel, total, state));
          f.set(key, partEnd);
        });
        each((panel) => finishPanel(f, args, kernel, plan, rows, panel, total));
      });
    },
  };
}

/**
 * Every task takes its share of the parts that sequences have, however long they are now, and leaves
 * their states in shared scratch.
 */
function partsPhase(job: Job, nanoseconds: number): Phase {
  const { kernel, plan } = job;
  const { outer, chunks, taskPanels, parts, partKeys, inputBytes, stateBytes } = plan;
  const tasks = Math.min(WANTED_TASKS, kernel.batch * outer * chunks * parts);
  return {
    tasks,
    nanoseconds,
    emit(f, args) {
      const sums = tileSums(f, job.target);
      const panelsAt = f.keep(i32.add(args.threadScratch, job.panelsAt));
      const batch = f.local("i32");
      /** Parts of the sequence; items of work, which are parts for a chunk of a set of its rows. */
      const count = f.local("i32");
      const own = () => i32.mul(count, outer * chunks);
      const countParts = () => {
        const length = lengthOf(f, args, kernel, batch);
        f.set(count, i32.divU(i32.add(length, partKeys - 1), partKeys));
      };
      const all = f.local("i32");
      f.for(batch, 0, i32.const(kernel.batch), 1, () => {
        countParts();
        f.inc(all, own());
      });
      // Rounded up: a single part is the first thread's first task, of two each thread has one.
      const share = (task: Local<"i32">) => i32.divU(i32.add(i32.mul(task, all), tasks - 1), tasks);
      const item = f.local("i32", share(args.begin));
      const lastItem = f.keep(share(args.end));
      const firstItem = f.local("i32");
      const firstRow = f.local("i32");
      const key = f.local("i32");
      const end = f.local("i32");
      f.set(batch, 0);
      f.if(i32.ltU(item, lastItem), countParts);
      f.while(i32.ltU(item, lastItem), () => {
        f.while(i32.geU(item, i32.add(firstItem, own())), () => {
          f.inc(firstItem, own());
          f.inc(batch, 1);
          countParts();
        });
        const place = f.keep(i32.sub(item, firstItem));
        const part = f.keep(i32.remU(place, count));
        const chunk = f.keep(i32.divU(place, count));
        const which = f.keep(i32.divU(chunk, chunks));
        f.set(chunk, i32.remU(chunk, chunks));
        f.set(firstRow, i32.mul(chunk, taskPanels * LANES));
        const rows = rowsOf(f, args, kernel, plan, { batch, which });
        const most = f.local("i32", -1);
        const states = f.keep(statesOf(args, job, { batch, which, part }));
        f.inc(states, i32.mul(chunk, taskPanels * stateBytes));
        f.set(key, i32.mul(part, partKeys));
        eachPanel(f, plan, firstRow, (panel, index) => {
          const at = f.keep(i32.add(panelsAt, i32.mul(index, inputBytes)));
          packQueries(f, args, kernel, plan, rows, panel, at);
          const sight = f.keep(i32.add(at, plan.sightAt));
          seePanel(f, args, kernel, plan, rows, panel, sight);
          f.if(i32.gtS(mostSeen(sight), most), () => f.set(most, mostSeen(sight)));
          startState(f, plan, f.keep(i32.add(states, i32.mul(index, stateBytes))));
        });
        f.set(end, i32.add(most, 1));
        const partEnd = f.keep(i32.add(key, partKeys));
        f.if(i32.gtS(end, partEnd), () => f.set(end, partEnd));
        attendKeys(f, args, job, { sums, rows, firstRow, key, end }, (index) => ({
          panelAt: f.keep(i32.add(panelsAt, i32.mul(index, inputBytes))),
          stateAt: f.keep(i32.add(states, i32.mul(index, stateBytes))),
        }));
        f.inc(item, 1);
      });
    },
  };
}

/** Every task merges the parts of a panel, in order, and writes its results. */
function mergePhase(job: Job): Phase {
  const { kernel, target, plan } = job;
  const { outer, panels, parts, partKeys, stateBytes } = plan;
  const tasks = kernel.batch * outer * panels;
  return {
    tasks,
    nanoseconds: (tasks * parts * stateBytes) / 20,
    emit(f, args) {
      const task = f.local("i32");
      const part = f.local("i32");
      const sight = f.keep(i32.add(args.threadScratch, job.panelsAt));
      const total = f.keep(i32.add(sight, plan.inputBytes));
      const row = f.local("i32");
      const valid = f.local("i32");
      f.for(task, args.begin, args.end, 1, () => {
        const owner = f.keep(i32.divU(task, panels));
        const batch = f.keep(i32.divU(owner, outer));
        const which = f.keep(i32.remU(owner, outer));
        const index = f.keep(i32.remU(task, panels));
        f.set(row, i32.mul(index, LANES));
        f.set(valid, i32.sub(plan.rows, row));
        f.if(i32.gtS(valid, LANES), () => f.set(valid, LANES));
        const panel = { row, valid };
        const rows = rowsOf(f, args, kernel, plan, { batch, which });
        seePanel(f, args, kernel, plan, rows, panel, sight);
        startState(f, plan, total);
        // A state for every part that some row of the task sees, this panel or another.
        const seen = f.keep(i32.divU(i32.add(mostSeen(sight), partKeys), partKeys));
        const state = f.local("i32", statesOf(args, job, { batch, which, part: i32.const(0) }));
        f.inc(state, i32.mul(index, stateBytes));
        f.for(part, 0, seen, 1, () => {
          mergeState(f, target, kernel, total, state);
          f.inc(state, panels * stateBytes);
        });
        finishPanel(f, args, kernel, plan, rows, panel, total);
      });
    },
  };
}

/** Address of the states that a part of the keys has in shared scratch, a panel after another. */
function statesOf(
  args: PhaseArguments,
  { plan }: Job,
  at: { batch: Local<"i32">; which: Local<"i32">; part: Value<"i32"> },
): Value<"i32"> {
  const owner = i32.add(i32.mul(at.batch, plan.outer), at.which);
  const index = i32.add(i32.mul(owner, plan.parts), at.part);
  return i32.add(args.sharedScratch(), i32.mul(index, plan.panels * plan.stateBytes));
}

/** Set `which` of a sequence's rows. */
function rowsOf(
  f: Func,
  args: PhaseArguments,
  kernel: AttentionKernel,
  { times, group }: Plan,
  at: { batch: Local<"i32">; which: Value<"i32"> },
): Rows {
  const { queries, heads, keyHeads } = kernel;
  // Where rows are of one query alone, the sets of a head's queries follow each other.
  const apart = queries / times;
  const which = f.keep(at.which);
  const head = f.keep(i32.mul(i32.divU(which, apart), group));
  return {
    batch: at.batch,
    length: lengthOf(f, args, kernel, at.batch),
    head,
    time: f.keep(i32.remU(which, apart)),
    keyHead: f.keep(i32.divU(i32.mul(head, keyHeads), heads)),
  };
}

/** The panels of a task whose rows begin at `firstRow`, and their number in it. */
function eachPanel(
  f: Func,
  plan: Plan,
  firstRow: Local<"i32">,
  body: (panel: Panel, index: Local<"i32">) => void,
): void {
  const index = f.local("i32");
  const valid = f.local("i32");
  const row = f.local("i32", firstRow);
  f.for(index, 0, plan.taskPanels, 1, () => {
    f.set(valid, i32.sub(plan.rows, row));
    f.if(i32.gtS(valid, LANES), () => f.set(valid, LANES));
    f.if(i32.gtS(valid, 0), () => body({ row, valid }, index));
    f.inc(row, LANES);
  });
}

/** Takes a task's panels through keys `key` … `end` − 1, block by block. */
function attendKeys(
  f: Func,
  args: PhaseArguments,
  { kernel, target, plan, reader, scoresAt }: Job,
  at: {
    sums: readonly Local<"v128">[];
    rows: Rows;
    firstRow: Local<"i32">;
    key: Local<"i32">;
    end: Local<"i32">;
  },
  memory: (index: Local<"i32">) => { panelAt: Local<"i32">; stateAt: Local<"i32"> },
): void {
  const { sums, rows, firstRow, end } = at;
  const { block } = plan;
  const key = f.local("i32", at.key);
  const count = f.local("i32");
  const scores = f.keep(i32.add(args.threadScratch, scoresAt));
  f.while(i32.ltS(key, end), () => {
    f.set(count, i32.sub(end, key));
    f.if(i32.gtS(count, block), () => f.set(count, block));
    const place = { batch: rows.batch, key, head: rows.keyHead };
    const { keys, values } = reader.read(f, args, place, count, args.threadScratch);
    eachPanel(f, plan, firstRow, (_, index) => {
      const { panelAt, stateAt } = memory(index);
      const sight = f.keep(i32.add(panelAt, plan.sightAt));
      const seen = f.keep(i32.sub(i32.add(mostSeen(sight), 1), key));
      f.if(i32.gtS(seen, count), () => f.set(seen, count));
      f.if(i32.gtS(seen, 0), () => {
        const shared = { block, sums, scores, seen };
        const score = { batch: rows.batch, key, keys, queries: panelAt, sight };
        scoreBlock(f, args, kernel, target, shared, score);
        weightBlock(f, kernel, target, shared, { values, state: stateAt });
      });
    });
    f.inc(key, block);
  });
}
