/** Packing of grouped products' operands: plain, scaled, or with rows that are looked up. */
import type { MatrixView, RowLookup } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, i32, type Local, type Value } from "../asm.ts";
import type { PhaseArguments } from "../kernel.ts";
import { columnPanels, packPanel, rowPanels } from "./matmul-pack.ts";
import { packRowsAcross, packRowsAlong } from "./matmul-pack-rows.ts";

/** An operand, and whether its rows or its columns lie side by side in panels. */
interface Side {
  readonly view: MatrixView;
  readonly by: "rows" | "columns";
  readonly lookup?: RowLookup | undefined;
}

interface PanelPlace {
  readonly matrix: Local<"i32">;
  readonly group: Value<"i32">;
  /** First row of A or column of B, and one past the last there is. */
  readonly first: Local<"i32">;
  readonly limit: Value<"i32">;
  readonly k: Local<"i32">;
  readonly count: number | Local<"i32">;
  readonly to: Local<"i32">;
}

/** Packs a panel of `width` rows or columns. */
export function pack(
  f: Func,
  args: PhaseArguments,
  side: Side,
  width: number,
  at: PanelPlace,
): void {
  const { view, by, lookup } = side;
  const panels = by === "rows" ? rowPanels(view) : columnPanels(view);
  const bytes = dtypeBytes(view.dtype);
  const valid = f.keep(i32.sub(at.limit, at.first));
  f.if(i32.gtS(valid, width), () => f.set(valid, width));
  const across = i32.mul(at.first, panels.across * bytes);
  const along = i32.mul(at.k, panels.along * bytes);
  const job = (offset: Value<"i32">) => {
    return { width, valid, from: f.keep(i32.add(at.matrix, offset)), to: at.to, count: at.count };
  };
  if (lookup) {
    const row = i32.shl(by === "rows" ? at.first : at.k, 2);
    const rows = {
      indices: f.keep(i32.add(args.slot(lookup.slot), row)),
      extent: lookup.extent,
    };
    if (by === "rows") packRowsAcross(f, panels, job(along), rows);
    else packRowsAlong(f, panels, job(across), rows);
    return;
  }
  const plain = job(i32.add(across, along));
  const { scale } = view;
  if (!scale) {
    packPanel(f, panels, plain);
    return;
  }
  const stride = (scale.batch[0] ?? 0) * 4;
  const base = f.keep(i32.add(args.slot(scale.slot), i32.mul(at.group, stride)));
  packPanel(f, panels, { ...plain, scales: { base, first: at.first, k: at.k } });
}
