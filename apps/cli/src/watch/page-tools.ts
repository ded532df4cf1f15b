/** Values of a metric, point by point; null where there is none. */
export type Values = (number | null)[];

export interface PageTools {
  format(value: number | null | undefined): string;
  duration(seconds: number): string;
  smoothed(values: Values, weight: number): Values;
  increasing(xs: number[]): number[];
  logTicks(min: number, max: number): number[];
  nearest(values: Values, at: number): number | undefined;
}

/**
 * What the page reckons with, apart from what it draws. Like the page, it is sent as its text, and so
 * uses nothing from outside this function.
 */
export function pageTools(): PageTools {
  /** At most four digits, or nothing. */
  function format(value: number | null | undefined): string {
    if (value === null || value === undefined) return "";
    const size = Math.abs(value);
    const short = (n: number) => Number(n.toPrecision(4));
    if (size >= 1e15 || (size < 1e-3 && size > 0)) {
      return Number(value.toPrecision(3)).toExponential().replace("e+", "e");
    }
    if (size < 1e4) return String(short(value));
    const power = Math.min(4, Math.floor(Math.log10(size) / 3));
    return `${short(value / 1000 ** power)}${"kMGT"[power - 1]}`;
  }

  /** 8s, 2m05s, 3h07m. */
  function duration(seconds: number): string {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s}s`;
    if (s < 3600) return `${Math.floor(s / 60)}m${String(s % 60).padStart(2, "0")}s`;
    return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
  }

  /** An exponential mean that is not drawn to its first value; `weight` is the share of the past. */
  function smoothed(values: Values, weight: number): Values {
    let mean = 0;
    let sum = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = weight * mean + (1 - weight) * value;
      sum = weight * sum + (1 - weight);
      return mean / sum;
    });
  }

  /** A run that was gone on with may have counted its seconds anew. */
  function increasing(xs: number[]): number[] {
    for (let i = 1; i < xs.length; i++) xs[i] = Math.max(xs[i] as number, xs[i - 1] as number);
    return xs;
  }

  /** Powers of ten, or round numbers where there are not two of them. */
  function logTicks(min: number, max: number): number[] {
    const power = Math.ceil(Math.log10(min));
    const powers = Math.floor(Math.log10(max)) - power + 1;
    if (powers >= 2) {
      const each = Math.ceil(powers / 6);
      return Array.from({ length: Math.ceil(powers / each) }, (_, i) => 10 ** (power + i * each));
    }
    const rough = (max - min) / 5;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * ([1, 2, 5, 10].find((m) => m * unit >= rough) ?? 10);
    const first = Math.ceil(min / step);
    return Array.from({ length: Math.floor(max / step) - first + 1 }, (_, i) => (first + i) * step);
  }

  /** Of a run that has begun and not ended at a place. */
  function nearest(values: Values, at: number): number | undefined {
    let [before, after] = [at, at];
    while (before >= 0 && (values[before] ?? null) === null) before--;
    while (after < values.length && (values[after] ?? null) === null) after++;
    if (before < 0 || after >= values.length) return undefined;
    return values[at - before < after - at ? before : after] ?? undefined;
  }

  return { format, duration, smoothed, increasing, logTicks, nearest };
}
