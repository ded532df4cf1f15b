/** How attention is cut up: which queries share a pass over keys, and where their scratch memory lies. */
import type { AttentionShape, HeadsView } from "@dsv3/tensor";
import { keyBlock, LANES, SIGHT_BYTES } from "./attention-view.ts";

/** Panels that go through the keys together. */
const TASK_PANELS = 12;
/**
 * Least keys of a part, and most parts of a sequence. Parts are summed apart and merged in order
 * whoever computes them, so that a query's result depends on nothing beside it.
 */
const PART_KEYS = 256;
const MOST_PARTS = 32;

/** Tasks that keep all threads busy, and the most memory that the states of parts may take to get as many. */
export const WANTED_TASKS = 64;
/** Places in a panel's state, which begins with the maximum. */
export const SUM_AT = 32;
export const OUTPUTS_AT = 64;
const MOST_STATE_BYTES = 2 ** 26;

const ceilDiv = (a: number, b: number) => Math.ceil(a / b);

export interface Plan {
  /**
   * Rows are queries of heads that share a key head: row r is query ⌊r / group⌋ of `times`, head
   * r mod group. `outer` such sets of rows cover a sequence.
   */
  readonly times: number;
  readonly group: number;
  readonly outer: number;
  readonly rows: number;
  readonly panels: number;
  /** A task's panels, and tasks that cover the rows. */
  readonly taskPanels: number;
  readonly chunks: number;
  /** Keys of a block and of a part; parts of the longest sequence. */
  readonly block: number;
  readonly partKeys: number;
  readonly parts: number;
  /** Whether parts are tasks of their own: where rows are few, threads share out the keys. */
  readonly split: boolean;
  /** A panel's queries [qkWidth][8] and what they see. */
  readonly sightAt: number;
  readonly inputBytes: number;
  /** Its maxima, sums, and outputs [vWidth][8]; and all that parts leave if they are tasks. */
  readonly stateBytes: number;
  readonly allStateBytes: number;
}

export function planAttention(kernel: AttentionShape & { q: HeadsView; out: HeadsView }): Plan {
  const { batch, queries, keys, heads, keyHeads, qkWidth, vWidth } = kernel;
  const shared = heads % keyHeads === 0 ? heads / keyHeads : 1;
  const oneStride = [kernel.q, kernel.out].every(
    ({ strides }) => strides[1] === shared * strides[2],
  );
  // Rows lie one stride apart. Where queries of several heads do not, they are of one query or one head.
  const [times, group] =
    queries === 1 || oneStride
      ? [queries, shared]
      : queries < LANES && shared > queries
        ? [1, shared]
        : [queries, 1];
  const rows = times * group;
  const panels = ceilDiv(rows, LANES);
  const chunks = ceilDiv(panels, TASK_PANELS);
  const block = keyBlock(kernel);
  const blocks = ceilDiv(keys, block);
  const partBlocks = Math.max(ceilDiv(PART_KEYS, block), ceilDiv(blocks, MOST_PARTS));
  const parts = ceilDiv(blocks, partBlocks);
  const queryBytes = qkWidth * LANES * 4;
  const outer = (heads * queries) / rows;
  const stateBytes = OUTPUTS_AT + 4 * ceilDiv(vWidth, 4) * LANES * 4;
  const allStateBytes = batch * outer * parts * panels * stateBytes;
  return {
    times,
    group,
    outer,
    rows,
    panels,
    taskPanels: ceilDiv(panels, chunks),
    chunks,
    block,
    partKeys: partBlocks * block,
    parts,
    split: parts > 1 && batch * outer * chunks < WANTED_TASKS && allStateBytes <= MOST_STATE_BYTES,
    sightAt: queryBytes,
    inputBytes: queryBytes + SIGHT_BYTES,
    stateBytes,
    allStateBytes,
  };
}

/** Elements from a row to the next. */
export function rowStride({ group }: Plan, view: HeadsView): number {
  return group === 1 ? view.strides[1] : view.strides[2];
}
