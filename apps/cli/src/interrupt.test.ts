import { EventEmitter } from "node:events";
import { expect, it } from "vitest";
import { interruptSignal } from "./interrupt.ts";

it("aborts on the first Ctrl-C, takes a quick repeat for the same, and stops at once on a second", () => {
  const source = new EventEmitter();
  const calls: string[] = [];
  let time = 10_000;
  const signal = interruptSignal(
    source,
    () => calls.push("first"),
    () => calls.push("stop"),
    () => time,
  );
  expect(signal.aborted).toBe(false);
  source.emit("SIGINT");
  expect(signal.reason).toEqual(new Error("stopped by SIGINT"));
  time += 20;
  source.emit("SIGINT");
  expect(calls).toEqual(["first"]);
  time += 1000;
  source.emit("SIGTERM");
  expect(calls).toEqual(["first", "stop"]);
});
