import { expect, it } from "vitest";
import { eventFileHead, eventFileName, eventRecord, isEventFile } from "./tensorboard.ts";
import { readEvents } from "./testing-events.ts";

it("writes scalars that a reader of the format reads back", () => {
  const scalars = [
    ["train/loss", 2.5],
    ["größe", -0],
    ["x".repeat(300), 3.4e38],
  ] as const;
  const steps = [1, 127, 128, 2 ** 31, Number.MAX_SAFE_INTEGER];
  const bytes = Buffer.concat([
    eventFileHead(1.5, 4),
    ...steps.map((step) => eventRecord({ step, wallTime: 1e9 + 0.25, scalars })),
    eventRecord({ step: 9, wallTime: 2, scalars: [] }),
  ]);
  const events = readEvents(bytes);
  expect(events.slice(0, 2)).toEqual([
    { wallTime: 1.5, fileVersion: "brain.Event:2" },
    { wallTime: 1.5, step: 4, sessionStatus: 1 },
  ]);
  const read = scalars.map(([tag, value]) => [tag, Math.fround(value)]);
  expect(events.slice(2)).toEqual(
    steps.map((step) => ({ wallTime: 1e9 + 0.25, step, scalars: read })),
  );
});

it("names files so that TensorBoard finds and orders them", () => {
  expect(eventFileName(1_790_000_000.9)).toMatch(/^events\.out\.tfevents\.1790000000\../);
  expect(isEventFile(eventFileName(1))).toBe(true);
  expect(isEventFile("metrics.jsonl")).toBe(false);
});
