/**
 * Rows for supervised fine-tuning: several conversations share a row, invisible to each other
 * (section 5.1 of the report), and only what the assistant says is a target.
 */
import type { EncodedChat } from "@dsv3/tokenizer";

/** Rows of `length`, row-major [rows, length]. */
export interface ConversationRows {
  readonly inputIds: Int32Array;
  /** The token after each input where the assistant says it; −1 elsewhere. */
  readonly targets: Int32Array;
  /** Which conversation of its row a token belongs to, from 1; 0 for padding. */
  readonly segments: Int32Array;
  readonly rows: number;
  /** For each conversation that was placed: its number in the input, its row, and its first column. */
  readonly placed: readonly { conversation: number; row: number; column: number }[];
  /** Conversations cut at the row's end. */
  readonly truncated: readonly number[];
  /** Conversations without a target inside the row, which teach nothing and were left out. */
  readonly dropped: readonly number[];
}

/**
 * Packs conversations into rows, the longest first, each into the fullest row that still has room
 * (best fit decreasing); deterministic.
 * @param length tokens of a row; a longer conversation is cut
 * @param padId fills what is left
 * @throws RangeError for a length under 2
 */
export function packConversations(
  conversations: readonly EncodedChat[],
  length: number,
  padId: number,
): ConversationRows {
  if (!Number.isInteger(length) || length < 2) {
    throw new RangeError(`a row needs two tokens at least, length is ${length}`);
  }
  const truncated: number[] = [];
  const dropped: number[] = [];
  const kept: { conversation: number; size: number }[] = [];
  for (const [conversation, { ids, mask }] of conversations.entries()) {
    const size = Math.min(ids.length, length);
    if (!mask.subarray(1, size).includes(1)) dropped.push(conversation);
    else kept.push({ conversation, size });
    if (ids.length > length) truncated.push(conversation);
  }
  kept.sort((a, b) => b.size - a.size || a.conversation - b.conversation);

  const used: number[] = [];
  const placed: { conversation: number; row: number; column: number }[] = [];
  // Rows by room left, so that the fullest row with room is found without a search over all.
  const byRoom: number[][] = Array.from({ length: length + 1 }, () => []);
  for (const { conversation, size } of kept) {
    let room = size;
    while (room <= length && (byRoom[room] as number[]).length === 0) room++;
    const row = room <= length ? ((byRoom[room] as number[]).pop() as number) : used.push(0) - 1;
    const column = used[row] as number;
    placed.push({ conversation, row, column });
    used[row] = column + size;
    (byRoom[length - column - size] as number[]).push(row);
  }

  const rows = used.length;
  const inputIds = new Int32Array(rows * length).fill(padId);
  const targets = new Int32Array(rows * length).fill(-1);
  const segments = new Int32Array(rows * length);
  const seen = new Int32Array(rows);
  for (const { conversation, row, column } of placed) {
    const { ids, mask } = conversations[conversation] as EncodedChat;
    const size = Math.min(ids.length, length);
    const at = row * length + column;
    inputIds.set(ids.subarray(0, size), at);
    seen[row] = (seen[row] as number) + 1;
    segments.fill(seen[row] as number, at, at + size);
    for (let t = 1; t < size; t++) if (mask[t] === 1) targets[at + t - 1] = ids[t] as number;
  }
  return { inputIds, targets, segments, rows, placed, truncated, dropped };
}
