import { spawnSync } from "node:child_process";
import {
  add,
  type Backend,
  compile,
  fromF32,
  matmul,
  mul,
  ones,
  setBackend,
  softmax,
  type Tensor,
} from "@dsv3/tensor";
import { expect, test, vi } from "vitest";
import { type WasmOptions, wasmBackend } from "./index.ts";
import { kernelProgram, runProgram } from "./testing.ts";

async function withBackend(options: WasmOptions, body: (backend: Backend) => void | Promise<void>) {
  const backend = await wasmBackend(options);
  try {
    setBackend(backend);
    await body(backend);
  } finally {
    backend.dispose();
  }
}

/** out[i] = in[i + offset] for i < n, in f32. */
function copyProgram(n: number, offset = 0) {
  const at = (o: number) => ({ offset: o, strides: [1], terms: [] });
  const value = { id: 0, op: "load", type: "f32", slot: 0, index: at(offset) } as const;
  return kernelProgram(
    {
      kind: "loop",
      vars: [n],
      outer: 1,
      slots: ["f32", "f32"],
      stages: [
        { inner: [], reduces: [], stores: [{ slot: 1, index: at(0), value }], columnSums: [] },
      ],
    },
    [
      { dtype: "f32", elements: n },
      { dtype: "f32", elements: n },
    ],
    [1],
  );
}

test(
  "many threads on few cores: every step of every run is done once, in order",
  () =>
    withBackend({ threads: 5 }, () => {
      // Steps of all lengths, each adding 1 to the one before, so that a step skipped, done twice or
      // begun too early shows.
      const chain = compile((x: Tensor, y: Tensor) => {
        let [a, b] = [x, y];
        for (let i = 0; i < 20; i++) {
          const product = matmul(a, b);
          a = mul(add(product, 1), 1 / 64);
          b = softmax(add(b, a));
        }
        return [a, b];
      });
      const x = ones([64, 64]);
      const expected = chain(x, x).map((t) => t.dataSync());
      for (let i = 0; i < 300; i++) {
        const again = chain(x, x);
        again.forEach((t, o) => {
          expect(t.dataSync()).toEqual(expected[o]);
          t.dispose();
        });
      }
    }),
  60_000,
);

test("a failing kernel stops the backend with an error, on whichever thread it was", () =>
  withBackend({ threads: 3 }, (backend) => {
    const far = copyProgram(2 ** 18, 2 ** 30 - 2 ** 18);
    const input = [new Uint8Array(2 ** 20)];
    expect(() => runProgram(backend, far, input)).toThrow(
      /the wasm backend has stopped .*out of bounds.*make a new one/s,
    );
    expect(() => runProgram(backend, copyProgram(4), [new Uint8Array(16)])).toThrow("has stopped");
  }));

test("wrong calls say what is wrong", () =>
  withBackend({ threads: 2 }, async (backend) => {
    const executable = backend.compile(copyProgram(8));
    const [a, b, small] = [backend.alloc(32), backend.alloc(32), backend.alloc(8)];
    expect(() => executable.run([a])).toThrow("takes 1 inputs and 1 outputs, but got 1 buffers");
    expect(() => executable.run([a, small])).toThrow(
      "buffer 1 of program test has 8 bytes, but 32",
    );
    expect(() => backend.write(a, new Uint8Array(40))).toThrow("writing 40 bytes at offset 0");
    expect(() => backend.write(a, new Uint8Array(4), -4)).toThrow("at offset -4");
    backend.write(a, fromF32([1, 2, 3, 4, 5, 6, 7, 8], "f32"));
    executable.run([a, b]);
    expect(new Float32Array(backend.readSync(b).buffer)).toEqual(
      Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8),
    );
    expect((await executable.profile([a, b])).map((t) => t.step)).toEqual([0]);
    backend.free(b);
    expect(() => executable.run([a, b])).toThrow("used after it was freed");
    expect(() => backend.readSync(b)).toThrow("used after it was freed");
    executable.dispose();
    expect(() => executable.run([a, a])).toThrow("after it was disposed of");
    const unknown = {
      ...copyProgram(8).steps[0],
      kernel: { kind: "fft" } as never,
      label: "fft 8",
    };
    expect(() => backend.compile({ ...copyProgram(8), steps: [unknown as never] })).toThrow(
      'program test, step 0 (fft 8): the wasm backend has no kernel of kind "fft"; it has loop',
    );
  }));

test("options out of range", async () => {
  await expect(wasmBackend({ threads: 0 })).rejects.toThrow("threads is 0");
  await expect(wasmBackend({ threads: 1.5 })).rejects.toThrow("threads is 1.5");
  await expect(wasmBackend({ memory: { maximum: 5e9 } })).rejects.toThrow("memory.maximum");
});

test("a backend that is not disposed of lets the process end, and dispose ends its threads", () => {
  const script = `
    import { wasmBackend } from ${JSON.stringify(new URL("./index.ts", import.meta.url).href)};
    const first = await wasmBackend({ threads: 3 });
    first.dispose();
    await wasmBackend({ threads: 3 });
    console.log("end");`;
  const node = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    timeout: 20_000,
  });
  expect([node.stdout, node.status]).toEqual(["end\n", 0]);
});

test("a page that is not cross-origin isolated gets one thread", async () => {
  vi.stubGlobal("process", undefined);
  try {
    const backend = await wasmBackend();
    const out = runProgram(backend, copyProgram(4), [fromF32([1, 2, 3, 4], "f32")]);
    expect(out[0]).toEqual(fromF32([1, 2, 3, 4], "f32"));
  } finally {
    vi.unstubAllGlobals();
  }
});
