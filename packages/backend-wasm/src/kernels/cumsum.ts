/** Running sums, one after another along the axis; columns beside each other share vectors. */
import type { CumsumKernel } from "@dsv3/tensor";
import { f32x4, i32, i32x4, type Value, v128 } from "../asm.ts";
import type { KernelCode } from "../kernel.ts";

export function cumsum(kernel: CumsumKernel): KernelCode {
  const { outer, n, inner, dtype } = kernel;
  if (dtype !== "f32" && dtype !== "i32" && dtype !== "u32") {
    throw new Error(`cumsum of ${dtype}, but running sums are of f32, i32 or u32`);
  }
  const add = dtype === "f32" ? f32x4.add : i32x4.add;
  // A task is four neighbouring columns, or what is left of them.
  const groups = Math.ceil(inner / 4);
  return {
    phases: [
      {
        tasks: outer * groups,
        nanoseconds: 1.5 * outer * groups * n,
        emit(f, { slot, begin, end }) {
          const input = f.keep(slot(kernel.input));
          const output = f.keep(slot(kernel.output));
          const task = f.local("i32");
          const i = f.local("i32");
          f.for(task, begin, end, 1, () => {
            const column = f.keep(i32.shl(i32.remU(task, groups), 2));
            const start = i32.add(i32.mul(i32.divU(task, groups), n * inner), column);
            const offset = f.keep(i32.shl(start, 2));
            const from = f.keep(i32.add(input, offset));
            const to = f.keep(i32.add(output, offset));
            const scan = (lanes: number) => {
              const sum = f.local("v128", i32x4.const(0));
              f.for(i, 0, n, 1, () => {
                let x: Value<"v128"> = lanes === 4 ? v128.load(from) : v128.load32Zero(from);
                for (let l = 1; l < lanes && lanes < 4; l++) x = v128.load32Lane(from, x, l, 4 * l);
                f.set(sum, add(sum, x));
                if (lanes === 4) f.do(v128.store(to, sum));
                else for (let l = 0; l < lanes; l++) f.do(v128.store32Lane(to, sum, l, 4 * l));
                f.inc(from, 4 * inner);
                f.inc(to, 4 * inner);
              });
            };
            if (inner % 4 === 0) scan(4);
            else
              f.if(
                i32.leS(column, inner - 4),
                () => scan(4),
                () => scan(inner % 4),
              );
          });
        },
      },
    ],
  };
}
