import type uPlot from "uplot";
import type { Message } from "./feed.ts";
import type { Axis, Run, RunStore } from "./page-runs.ts";
import type { PageTools, Values } from "./page-tools.ts";

/**
 * The program of the page, which the server sends as its text: it uses nothing from outside this
 * function. Names and metrics come from files that anybody may have written, so they are only ever
 * put into the page as text.
 */
export function page(Plot: typeof uPlot, tools: PageTools, store: RunStore): void {
  const { runs } = store;
  const { format, duration } = tools;
  interface Card {
    metric: string;
    section: HTMLElement;
    plot: uPlot | undefined;
    /** Which run and what of it each series shows. */
    series: Series[];
    zoomed: boolean;
  }
  interface Series {
    run: Run;
    part: "line" | "raw" | "min" | "max";
  }

  const FIRST = ["reward", "mainLoss", "loss"];
  const HEIGHT = 210;
  /** Milliseconds after which a run that has written nothing is no longer under way. */
  const RESTS = 300_000;
  /** Seconds between ticks. */
  const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800].concat(
    [1, 2, 3, 6, 12, 24, 48, 96, 240].map((hours) => hours * 3600),
  );

  const element = <E extends HTMLElement = HTMLElement>(id: string) =>
    document.getElementById(id) as E;
  const xSelect = element<HTMLSelectElement>("x");
  const logBox = element<HTMLInputElement>("log");
  const smoothing = element<HTMLInputElement>("smoothing");
  const filter = element<HTMLInputElement>("filter");
  const charts = element("charts");
  const tip = element("tip");
  const cards = new Map<string, Card>();

  const make = (name: string, className = "", text = ""): HTMLElement => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  };
  const style = (name: string) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const axisText = (value: number): string =>
    xSelect.value === "seconds" ? duration(value).replace(/([hm])00[ms]$/, "$1") : format(value);

  // The list of runs.

  const rows = new Map<
    string,
    { row: HTMLElement; facts: HTMLElement; bar: HTMLProgressElement }
  >();

  function drawRuns(): void {
    for (const [id, { row }] of rows) {
      if (runs.has(id)) continue;
      row.remove();
      rows.delete(id);
    }
    for (const [id, run] of runs) {
      let row = rows.get(id);
      if (row === undefined) {
        row = runRow(run);
        rows.set(id, row);
        element("runs").append(row.row);
      }
      const step = run.axes.step.at(-1);
      const { planned, updated } = run.entry;
      const parts: string[] = [];
      if (step === undefined || step === null) parts.push("no steps yet");
      else parts.push(planned === null ? `step ${step}` : `step ${step} of ${planned}`);
      const rate = run.metrics.get("tokensPerSecond")?.mean.findLast((v) => v !== null);
      if (rate) parts.push(`${format(rate)} tokens/s`);
      const left = secondsLeft(run);
      if (left !== undefined) parts.push(`${duration(left)} left`);
      if (updated !== null) parts.push(`${duration((Date.now() - updated) / 1e3)} ago`);
      row.facts.textContent = parts.join(" · ");
      row.bar.hidden = planned === null;
      row.bar.value = planned ? Math.min(1, (step ?? 0) / planned) : 0;
    }
  }

  function runRow(run: Run) {
    const row = make("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = run.shown;
    box.addEventListener("change", () => {
      run.shown = box.checked;
      redraw();
    });
    const swatch = make("span", "swatch");
    swatch.style.background = run.color;
    const facts = make("span", "facts");
    const bar = document.createElement("progress");
    const text = make("span");
    text.append(make("span", "name", run.entry.name), facts, bar);
    row.append(box, swatch, text);
    return { row, facts, bar };
  }

  /** By the pace so far; nothing for a run that has ended or rests. */
  function secondsLeft({ entry, axes }: Run): number | undefined {
    const [step, seconds] = [axes.step.at(-1), axes.seconds.at(-1)];
    if (!entry.planned || !step || !seconds || step >= entry.planned) return undefined;
    if (Date.now() - (entry.updated ?? 0) > RESTS) return undefined;
    return (entry.planned - step) * (seconds / step);
  }

  // The charts.

  /** The series of a card, and their values over an x that they share. */
  function dataOf(card: Card): { series: Series[]; data: uPlot.AlignedData } {
    const axis = xSelect.value as Axis;
    const series: Series[] = [];
    const tables: uPlot.AlignedData[] = [];
    for (const run of runs.values()) {
      const metric = run.metrics.get(card.metric);
      if (!run.shown || metric === undefined) continue;
      const kept = metric.mean.flatMap((v, i) =>
        v === null || run.axes[axis][i] === null ? [] : [i],
      );
      if (kept.length === 0) continue;
      const pick = (values: Values) => kept.map((i) => values[i] ?? null);
      const positive = (values: Values) =>
        logBox.checked ? values.map((v) => (v !== null && v > 0 ? v : null)) : values;
      const columns: Values[] = [];
      const add = (part: Series["part"], values: Values) => {
        series.push({ run, part });
        columns.push(positive(values));
      };
      const mean = pick(metric.mean);
      const [max, min] = [pick(metric.max), pick(metric.min)];
      if (max.some((value, i) => value !== min[i])) {
        add("max", max);
        add("min", min);
      } else if (Number(smoothing.value) > 0) add("raw", mean);
      add("line", tools.smoothed(mean, Number(smoothing.value)));
      tables.push([
        tools.increasing(pick(run.axes[axis]) as number[]),
        ...columns,
      ] as uPlot.AlignedData);
    }
    const data = tables.length > 0 ? Plot.join(tables) : ([[]] as unknown as uPlot.AlignedData);
    return { series, data };
  }

  function options(card: Card, width: number): uPlot.Options {
    const [ink, rule] = [style("--soft"), style("--rule")];
    const axis = {
      stroke: ink,
      font: "11px system-ui",
      grid: { stroke: rule, width: 1 },
      ticks: { show: false },
    };
    const bands: uPlot.Band[] = card.series.flatMap(({ run, part }, i) =>
      part === "max"
        ? [{ series: [i + 1, i + 2] as [number, number], fill: `${run.color}28` }]
        : [],
    );
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      scales: {
        x: { time: false },
        y: {
          distr: logBox.checked ? 3 : 1,
          range: (_, min, max) => rangeOf(min ?? 1, max ?? 1),
        },
      },
      padding: [8, 14, 0, 0],
      axes: [
        {
          ...axis,
          ...(xSelect.value === "seconds" ? { incrs: TIMES } : {}),
          size: 28,
          space: 60,
          values: (_, splits) => splits.map((v) => axisText(v)),
        },
        {
          ...axis,
          size: 56,
          ...(logBox.checked
            ? {
                splits: (_: uPlot, __: number, min: number, max: number) =>
                  tools.logTicks(min, max),
                filter: (_: uPlot, splits: number[]) => splits,
              }
            : {}),
          values: (_, splits) => splits.map((v) => format(v)),
        },
      ],
      series: [
        {},
        ...card.series.map(({ run, part }) => ({
          stroke: part === "line" ? run.color : part === "raw" ? `${run.color}50` : "transparent",
          width: part === "line" ? 1.6 : 1,
          spanGaps: true,
          ...(part === "line" ? {} : { points: { show: false } }),
        })),
      ],
      bands,
      cursor: {
        sync: { key: "runs", setSeries: false },
        points: { show: false },
        drag: { x: true, y: false },
        y: false,
      },
      hooks: {
        setCursor: [(plot) => hover(card, plot)],
        setSelect: [
          (plot) => {
            if (plot.select.width > 0) card.zoomed = true;
          },
        ],
      },
    };
  }

  /** A little more than what there is to see. */
  function rangeOf(min: number, max: number): [number, number] {
    if (logBox.checked) return min < max ? [min / 1.1, max * 1.1] : [min / 2, max * 2];
    const [low, high] = Plot.rangeNum(min, max, 0.06, true);
    return [low ?? min, high ?? max];
  }

  /** Shows what the runs had at the pointer, in the chart that it is over. */
  function hover(card: Card, plot: uPlot): void {
    if (!card.section.matches(":hover")) return;
    const { left = -1, top = -1 } = plot.cursor;
    if (left < 0) {
      tip.hidden = true;
      return;
    }
    const xs = plot.data[0];
    const at = plot.posToIdx(left);
    tip.replaceChildren(
      make("div", "", `${xSelect.selectedOptions[0]?.text} ${axisText(xs[at] ?? 0)}`),
    );
    card.series.forEach(({ run, part }, i) => {
      if (part !== "line") return;
      const values = plot.data[i + 1] as Values;
      const value = tools.nearest(values, at);
      if (value === undefined) return;
      const row = make("div");
      const dot = make("i");
      dot.style.background = run.color;
      row.append(dot, make("span", "", run.entry.name), make("b", "", format(value)));
      tip.append(row);
    });
    tip.hidden = false;
    const box = plot.over.getBoundingClientRect();
    const [x, y] = [box.left + left, box.top + top];
    const flip = x + tip.offsetWidth + 24 > innerWidth;
    tip.style.left = `${flip ? Math.max(4, x - tip.offsetWidth - 14) : x + 14}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - tip.offsetHeight - 8))}px`;
  }

  function drawCharts(anew: boolean): void {
    const names = new Set([...runs.values()].flatMap(({ metrics }) => [...metrics.keys()]));
    const rank = (name: string) => (FIRST.indexOf(name) + FIRST.length + 1) % (FIRST.length + 1);
    const sorted = [...names].sort((a, b) => rank(a) - rank(b));
    element("empty").hidden = names.size > 0;
    for (const [name, card] of cards) {
      if (names.has(name)) continue;
      card.plot?.destroy();
      card.section.remove();
      cards.delete(name);
    }
    sorted.forEach((name, i) => {
      let card = cards.get(name);
      if (card === undefined) {
        const section = make("section");
        section.append(make("h2", "", name));
        section.addEventListener("mouseleave", () => {
          tip.hidden = true;
        });
        card = { metric: name, section, plot: undefined, series: [], zoomed: false };
        cards.set(name, card);
        const shown = card;
        section.addEventListener("dblclick", () => {
          shown.zoomed = false;
        });
      }
      if (charts.children[i + 1] !== card.section) {
        charts.insertBefore(card.section, charts.children[i + 1] ?? null);
      }
      card.section.hidden = !name.toLowerCase().includes(filter.value.toLowerCase());
      if (!card.section.hidden) drawCard(card, anew);
    });
  }

  function drawCard(card: Card, anew: boolean): void {
    const { series, data } = dataOf(card);
    const kind = (list: Series[]) => list.map(({ run, part }) => `${run.entry.id}${part}`).join();
    const same = card.plot !== undefined && kind(series) === kind(card.series) && !anew;
    card.series = series;
    if (same) {
      card.plot?.setData(data, !card.zoomed);
      if (card.zoomed) card.plot?.redraw();
      return;
    }
    card.plot?.destroy();
    card.zoomed = false;
    const width = card.section.clientWidth - 14;
    card.plot = new Plot(options(card, Math.max(120, width)), data, card.section);
  }

  let awaited = false;
  let anewAwaited = false;
  /** Once for all that happens before the next picture. */
  function redraw(anew = true): void {
    anewAwaited ||= anew;
    if (awaited) return;
    awaited = true;
    requestAnimationFrame(() => {
      drawRuns();
      drawCharts(anewAwaited);
      awaited = false;
      anewAwaited = false;
    });
  }

  for (const control of [xSelect, logBox, smoothing, filter]) {
    control.addEventListener("input", () => redraw());
  }
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
  let { innerWidth: width } = window;
  addEventListener("resize", () => {
    if (innerWidth !== width) redraw();
    width = innerWidth;
  });
  setInterval(drawRuns, 5000);

  const events = new EventSource("/events");
  events.onopen = () => {
    element("state").textContent = "live";
    // The server begins from the start.
    store.forget();
  };
  events.onerror = () => {
    element("state").textContent = "connection lost; trying again …";
  };
  events.onmessage = ({ data }) => {
    store.receive(JSON.parse(data) as Message);
    redraw(false);
  };
}
