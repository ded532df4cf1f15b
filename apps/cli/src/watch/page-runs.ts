import type { Message, PointsMessage, RunEntry } from "./feed.ts";
import type { Values } from "./page-tools.ts";

export type Axis = "step" | "tokens" | "seconds";
export interface Metric {
  mean: Values;
  min: Values;
  max: Values;
}
export interface Run {
  entry: RunEntry;
  color: string;
  shown: boolean;
  axes: Record<Axis, Values>;
  metrics: Map<string, Metric>;
}

export interface RunStore {
  readonly runs: Map<string, Run>;
  receive(message: Message): void;
  /** Makes ready for a server that tells everything from the start. */
  forget(): void;
}

/**
 * What the page knows of the runs. Like the page, it is sent as its text, and so uses nothing from
 * outside this function.
 */
export function runStore(): RunStore {
  // Okabe and Ito's colours, which people with any eyes tell apart, and two more.
  const COLORS = [
    ...["#0f7dc2", "#e07b00", "#009e73", "#cc5c9b", "#c8a600"],
    ...["#d5452a", "#3fa7e0", "#8b6bd6", "#7a7f85"],
  ];
  const runs = new Map<string, Run>();
  let colored = 0;

  function receiveRuns(entries: readonly RunEntry[]): void {
    const ids = new Set(entries.map(({ id }) => id));
    for (const id of runs.keys()) if (!ids.has(id)) runs.delete(id);
    for (const entry of entries) {
      const run = runs.get(entry.id);
      if (run) run.entry = entry;
      else {
        const color = COLORS[colored++ % COLORS.length] as string;
        const axes = { step: [], tokens: [], seconds: [] };
        runs.set(entry.id, { entry, color, shown: true, axes, metrics: new Map() });
      }
    }
  }

  function receivePoints(message: PointsMessage): void {
    const run = runs.get(message.id);
    if (run === undefined) return;
    const { from } = message;
    if (from === 0) run.metrics.clear();
    for (const axis of ["step", "tokens", "seconds"] as const) {
      run.axes[axis].splice(from, Infinity, ...message[axis]);
    }
    const { length } = run.axes.step;
    for (const [name, columns] of Object.entries(message.metrics)) {
      const metric = run.metrics.get(name) ?? { mean: [], min: [], max: [] };
      run.metrics.set(name, metric);
      for (const part of ["mean", "min", "max"] as const) {
        const values = metric[part];
        while (values.length < from) values.push(null);
        values.splice(from, Infinity, ...(columns[part] ?? columns.mean));
      }
    }
    for (const metric of run.metrics.values()) {
      for (const values of Object.values(metric) as Values[]) {
        while (values.length < length) values.push(null);
      }
    }
  }

  return {
    runs,
    receive(message) {
      if (message.type === "runs") receiveRuns(message.runs);
      else receivePoints(message);
    },
    forget() {
      for (const run of runs.values()) run.metrics.clear();
    },
  };
}
