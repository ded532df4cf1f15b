/**
 * Rows that two groups reduce, together. What is computed of a row may begin a group before it turns out
 * to read what an earlier group reads, too: in the gradient of a norm alone, the product of the result's
 * gradient and the weights comes between the row's scale and all else.
 */
import { getBackend, type Tensor } from "../tensor.ts";
import { type Entry, type Group, join, madeIn, sharesWork, WINDOW } from "./groups.ts";

/** The same entries, with groups in one where a backend keeps the rows that both read. */
export function withRowsTogether(entries: readonly Entry[], roots: ReadonlySet<Tensor>): Entry[] {
  let found = [...entries];
  if (!getBackend().keepsRows) return found;
  for (const later of entries) {
    if (later.kind !== "group" || !later.reduces) continue;
    const at = found.indexOf(later);
    for (let i = at - 1; i >= Math.max(0, at - WINDOW); i--) {
      const earlier = found[i] as Entry;
      const both = merged(earlier, later, roots);
      if (both) {
        found = found.with(i, both).toSpliced(at, 1);
        break;
      }
      // The later group cannot come before what it reads.
      const made = madeIn(earlier);
      if (later.units.some((u) => made.some((t) => u.reads.has(t)))) break;
    }
  }
  return found;
}

/** Both groups as one, if reductions of both read the same rows and only numbers of each row pass between. */
function merged(earlier: Entry, later: Group, roots: ReadonlySet<Tensor>): Group | undefined {
  if (earlier.kind !== "group") return undefined;
  const reductions = (group: Group) => group.units.filter((u) => u.axes !== undefined);
  const rows = { ...earlier, units: reductions(earlier) };
  const shared = reductions(later).find((u) => sharesWork(u, rows, roots));
  if (shared === undefined) return undefined;
  const made = madeIn(earlier).filter((t) => t.size > shared.tensor.size);
  if (later.units.some((u) => made.some((t) => u.reads.has(t)))) return undefined;
  const both: Group = { ...earlier, units: [...earlier.units] };
  return later.units.every((u) => join(u, both, roots)) ? both : undefined;
}
