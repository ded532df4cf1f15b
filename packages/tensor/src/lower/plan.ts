/** The static memory plan: which temporary lies where in the scratch arena, and when. */

export interface Lifetime {
  readonly bytes: number;
  /** First and last step that touch it. */
  readonly from: number;
  readonly to: number;
}

export const ALIGNMENT = 64;

export function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/**
 * Offsets such that what lives at the same time does not overlap: every temporary, in order of
 * birth, gets the smallest gap that holds it.
 */
export function planMemory(lifetimes: readonly Lifetime[]): { offsets: number[]; total: number } {
  const order = lifetimes
    .map((_, i) => i)
    .sort((a, b) => at(a).from - at(b).from || at(b).bytes - at(a).bytes);
  function at(i: number): Lifetime {
    return lifetimes[i] as Lifetime;
  }
  const offsets = new Array<number>(lifetimes.length).fill(0);
  let placed: { offset: number; end: number; to: number }[] = []; // live ones, by offset
  let total = 0;
  for (const i of order) {
    const life = at(i);
    placed = placed.filter((p) => p.to >= life.from);
    const need = aligned(Math.max(1, life.bytes));
    let best = -1;
    let bestGap = Number.POSITIVE_INFINITY;
    let end = 0;
    for (const p of placed) {
      const gap = p.offset - end;
      if (gap >= need && gap < bestGap) {
        best = end;
        bestGap = gap;
      }
      end = Math.max(end, p.end);
    }
    const offset = best >= 0 ? best : end;
    offsets[i] = offset;
    total = Math.max(total, offset + need);
    const before = placed.findIndex((p) => p.offset > offset);
    placed.splice(before < 0 ? placed.length : before, 0, {
      offset,
      end: offset + need,
      to: life.to,
    });
  }
  return { offsets, total };
}
