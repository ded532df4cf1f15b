/** A text that two loop kernels share exactly when the same code serves both. */
import type { Expr, Index, LoopKernel } from "@dsv3/tensor";

export function loopKey(kernel: LoopKernel): string {
  const numbers = new Map<Expr, number>();
  const parts: string[] = [];

  const index = (i: Index): string => {
    const strides = i.strides.map((s) => s || "").join();
    return `${i.offset}:${strides}${i.terms.map((t) => `+${t.stride}*${expr(t.expr)}<${t.limit}`).join("")}`;
  };
  /** Number of an expression; its text is added to the parts at first sight. */
  const expr = (e: Expr): number => {
    const known = numbers.get(e);
    if (known !== undefined) return known;
    const text = `${e.op}.${e.type}(${operands(e)})`;
    const number = numbers.size;
    numbers.set(e, number);
    parts.push(text);
    return number;
  };
  const operands = (e: Expr): string => {
    switch (e.op) {
      case "const":
        return Object.is(e.value, -0) ? "-0" : `${e.value}`;
      case "index":
        return index(e.index);
      case "load":
        return `${e.slot}[${index(e.index)}]`;
      case "acc":
        return `${e.acc}`;
      case "narrow":
        return `${e.to},${expr(e.args[0])}`;
      default:
        return e.args.map(expr).join();
    }
  };

  for (const stage of kernel.stages) {
    const reduces = stage.reduces.map((r) => `${r.op}${r.acc}=${expr(r.value)}`);
    const stores = stage.stores.map((s) => `${s.slot}[${index(s.index)}]=${expr(s.value)}`);
    parts.push(`stage ${stage.inner} {${reduces.join(";")};${stores.join(";")}}`);
  }
  return `loop ${kernel.vars}|${kernel.outer}|${kernel.slots}|${parts.join("\n")}`;
}
