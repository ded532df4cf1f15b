/**
 * Compiles the matrix kernels of the benchmark for an H100, without one, and prints what the assembler says of
 * each: `node bench/compile.ts [name pattern]`. Registers, spills, and matrix instructions that it had to
 * serialise show what a change costs before it is run. Needs NVRTC alone (pip's nvidia-cuda-nvrtc).
 */
import { cudaOptions } from "../src/compiler.ts";
import { H100 } from "../src/kernel.ts";
import { lower } from "../src/kernels/index.ts";
import { Nvrtc } from "../src/nvrtc.ts";
import { PRELUDE } from "../src/prelude.ts";
import { FP8_CASES } from "./fp8-cases.ts";
import { MATRIX_CASES } from "./matrix-cases.ts";

const pattern = new RegExp(process.argv[2] ?? "");
const nvrtc = new Nvrtc();
for (const make of [...MATRIX_CASES, ...FP8_CASES]) {
  const { name, program } = make();
  if (!pattern.test(name)) continue;
  console.log(name);
  for (const { kernel, label } of program.steps) {
    if (program.steps.length > 1) console.log(`  ${label}`);
    const { source, options = [] } = lower(kernel, H100);
    const lines = nvrtc
      .report(PRELUDE + source, [...cudaOptions("sm_90a"), ...options])
      .split("\n");
    for (const line of lines) {
      const entry = /Compiling entry function '(\w+)'/.exec(line)?.[1];
      if (entry) console.log(`    ${entry}`);
      else if (/C7\d+|spill|Used \d+ registers/.test(line))
        console.log(`      ${line.replace(/^ptxas( info)?[ :.]*/, "")}`);
    }
  }
}
