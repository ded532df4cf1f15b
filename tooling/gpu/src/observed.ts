/** Which kernels of a program take the time, also where the program is compiled out of sight. */
import type { Backend, DeviceBuffer, Executable, KernelTime, Program } from "@dsv3/tensor";

/** Programs whose next run is to be timed kernel by kernel. */
const wanted = new Map<string, (program: Program, times: Promise<readonly KernelTime[]>) => void>();

/** The same backend, which `printSteps` can look into. */
export function observed(backend: Backend): Backend {
  return new Proxy(backend, {
    get(target, name) {
      if (name === "compile")
        return (program: Program) => watched(target.compile(program), program);
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

function watched(executable: Executable, program: Program): Executable {
  return {
    run(buffers: readonly DeviceBuffer[]) {
      const tell = wanted.get(program.name);
      if (tell === undefined) return executable.run(buffers);
      wanted.delete(program.name);
      tell(program, executable.profile(buffers));
    },
    profile: (buffers) => executable.profile(buffers),
    dispose: () => executable.dispose(),
  };
}

/** Runs `body`, which runs the program once, and prints its dearest kernels. */
export async function printSteps(
  name: string,
  body: () => Promise<unknown>,
  most = 40,
): Promise<void> {
  const seen = new Promise<[Program, readonly KernelTime[]]>((resolve, reject) => {
    wanted.set(name, (program, times) => {
      times.then((t) => resolve([program, t]), reject);
    });
  });
  await body();
  const [program, times] = await seen;
  const kinds = new Map<string, { ms: number; count: number; traffic: number; flops: number }>();
  let total = 0;
  for (const { step, milliseconds } of times) {
    const { label, traffic, flops } = program.steps[step] as Program["steps"][number];
    const kind = kinds.get(label) ?? { ms: 0, count: 0, traffic: 0, flops: 0 };
    kind.ms += milliseconds;
    kind.count += 1;
    kind.traffic += traffic;
    kind.flops += flops;
    kinds.set(label, kind);
    total += milliseconds;
  }
  console.log(`${name}: ${times.length} kernels, ${total.toFixed(2)} ms`);
  for (const [label, k] of [...kinds].sort((a, b) => b[1].ms - a[1].ms).slice(0, most)) {
    const rate = (k.traffic / k.ms / 1e6).toFixed(0);
    const speed = (k.flops / k.ms / 1e9).toFixed(0);
    console.log(
      `${k.ms.toFixed(3).padStart(9)} ms ${String(k.count).padStart(4)} × ${rate.padStart(6)} GB/s ${speed.padStart(5)} TFLOP/s  ${label.slice(0, 90)}`,
    );
  }
}
