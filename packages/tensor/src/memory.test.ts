import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { compile } from "./compile.ts";
import { add, exp } from "./ops/pointwise.ts";
import { memory, scope, setBackend, type Tensor, tensor } from "./tensor.ts";
import { referenceBackend } from "./testing/index.ts";

beforeAll(() => setBackend(referenceBackend()));

// A file of its own: what other tests leave to the garbage collector would be freed in the midst.
describe("memory", () => {
  let before = 0;
  afterEach(() => expect(memory().liveBytes).toBe(before));

  test("a scope gives back all but its result", () => {
    before = memory().liveBytes;
    scope(() => {
      const kept = scope(() => exp(add(tensor([1, 2]), 1)));
      expect(kept.disposed).toBe(false);
    });
  });
  test("an error inside a scope leaves nothing behind", () => {
    before = memory().liveBytes;
    expect(() =>
      scope(() => {
        tensor([1]);
        throw new Error("no");
      }),
    ).toThrow("no");
  });
  test("tensors made while tracing live as long as the program, whatever scope they arose in", () => {
    using x = tensor([1, 2]);
    before = memory().liveBytes;
    const buffers = memory().liveBuffers;
    const fn = compile((x: Tensor) => {
      tensor([7, 7]); // not used: gone at once
      return add(x, tensor([10, 20]));
    });
    for (const _ of [1, 2]) {
      scope(() => {
        expect([...(fn(x).dataSync() as Float32Array)]).toEqual([11, 22]);
      });
    }
    expect(memory().liveBuffers).toBe(buffers + 1);
    fn.dispose();
    expect(memory().liveBuffers).toBe(buffers);
    before -= 8; // x, which goes with this block
  });
  test("an async scope", async () => {
    before = memory().liveBytes;
    await scope(async () => {
      const x = tensor([1]);
      await x.data();
    });
  });
});
