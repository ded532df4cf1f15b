import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { cudaAvailable } from "./index.ts";
import { emulatorAvailable } from "./testing/emulator.ts";

// Without a GPU the kernels run on the CPU, under an emulator.
test.skipIf(!cudaAvailable() && !emulatorAvailable())(
  "the README's example runs as printed",
  { timeout: 60_000 },
  async () => {
    const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
    const code = (/```ts\n([\s\S]*?)```/.exec(readme) as RegExpExecArray)[1] as string;
    const folder = mkdtempSync(join(import.meta.dirname, ".readme-"));
    const log = vi.spyOn(console, "log").mockImplementation(() => {});
    try {
      const example = join(folder, "example.ts");
      const cuda = 'import { cudaBackend } from "@dsv3/backend-cuda";';
      expect(code).toContain(cuda);
      const emulated = `import { emulatedBackend } from "../testing/emulator.ts";
const cudaBackend = async () => emulatedBackend(${JSON.stringify(folder)});`;
      const own = 'import { cudaBackend } from "../index.ts";';
      writeFileSync(example, code.replace(cuda, cudaAvailable() ? own : emulated));
      await import(example);
      const [shape, total, name] = log.mock.calls[0] as [number[], number, string];
      expect([shape, name]).toEqual([[16, 16], "cuda"]);
      expect(total).toBeCloseTo(16, 4);
    } finally {
      log.mockRestore();
      rmSync(folder, { recursive: true });
    }
  },
);
