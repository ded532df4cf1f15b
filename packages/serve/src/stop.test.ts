import fc from "fast-check";
import { expect, test } from "vitest";
import { StopWatch } from "./stop.ts";

test("text is given out as soon as it cannot become a stop string", () => {
  const watch = new StopWatch(["</end>", "\n\n"]);
  expect(watch.push("a <")).toEqual({ text: "a ", stop: null });
  expect(watch.push("/e")).toEqual({ text: "", stop: null });
  expect(watch.push("x\n")).toEqual({ text: "</ex", stop: null });
  expect(watch.push("\nrest")).toEqual({ text: "", stop: "\n\n" });
});

test("the leftmost stop string ends the text, the longer of two at one place", () => {
  expect(new StopWatch(["b", "ab", "abc"]).push("xabc")).toEqual({ text: "x", stop: "abc" });
  const watch = new StopWatch(["aab"]);
  expect(watch.push("aa").text + watch.push("a").text + watch.end()).toBe("aaa");
});

test("however a text is cut into pieces, the same is shown", () => {
  const word = fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 3 });
  const pieces = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 4 }));
  fc.assert(
    fc.property(pieces, word, (pieces, stop) => {
      const watch = new StopWatch([stop]);
      let shown = "";
      let stopped = false;
      for (const piece of pieces) {
        const out = watch.push(piece);
        shown += out.text;
        stopped = out.stop !== null;
        if (stopped) break;
      }
      if (!stopped) shown += watch.end();
      const whole = pieces.join("");
      const at = whole.indexOf(stop);
      expect(stopped).toBe(at >= 0);
      expect(shown).toBe(at >= 0 ? whole.slice(0, at) : whole);
    }),
  );
});
