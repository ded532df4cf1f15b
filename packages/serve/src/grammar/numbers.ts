/** Numbers between two bounds, digit by digit, as JSON writes them without an exponent. */
import type { Network, Piece } from "./network.ts";

/** An end of a range; exclusive: what lies beyond it alone belongs to the range. */
export interface Bound {
  readonly value: number;
  readonly exclusive: boolean;
}

export interface Bounds {
  readonly low?: Bound | undefined;
  readonly high?: Bound | undefined;
}

/** Digits that a double holds exactly. */
const DIGITS = 15;
const LARGEST = 10n ** BigInt(DIGITS) - 1n;

/** Whole numbers between bounds, of 15 digits at most; null: there are none. */
export function wholeBetween(net: Network, { low, high }: Bounds): Piece | null {
  const most = (a: bigint, b: bigint) => (a > b ? a : b);
  const least = (a: bigint, b: bigint) => (a < b ? a : b);
  const from = low ? most(-LARGEST, firstAbove(low)) : -LARGEST;
  const to = high ? least(LARGEST, -firstAbove(negated(high))) : LARGEST;
  const pieces: Piece[] = [];
  if (from < 0n && from <= to) {
    const negative = naturals(net, most(1n, -to), -from);
    pieces.push(net.sequence([net.text("-"), negative]));
  }
  if (to >= 0n && from <= to) pieces.push(naturals(net, most(0n, from), to));
  return pieces.length === 0 ? null : net.choice(pieces);
}

/** Numbers between bounds, whole or with a fraction, of 15 digits at most; null: there are none. */
export function numbersBetween(net: Network, bounds: Bounds): Piece | null {
  const pieces: Piece[] = [];
  const positive = fromZero(net, bounds);
  if (positive) pieces.push(positive);
  const { low, high } = bounds;
  const mirrored = { low: high && negated(high), high: low && negated(low) };
  const negative = fromZero(net, mirrored);
  if (negative) pieces.push(net.sequence([net.text("-"), negative]));
  return pieces.length === 0 ? null : net.choice(pieces);
}

function negated({ value, exclusive }: Bound): Bound {
  return { value: -value, exclusive };
}

/** The first whole number inside a lower bound. */
function firstAbove({ value, exclusive }: Bound): bigint {
  const clamped = Math.max(-1e16, Math.min(1e16, Math.ceil(value)));
  return BigInt(clamped) + (exclusive && Number.isInteger(value) ? 1n : 0n);
}

/** Whole numbers from `low` to `high`, neither below 0. */
function naturals(net: Network, low: bigint, high: bigint): Piece {
  const pieces: Piece[] = [];
  for (let length = `${low}`.length; length <= `${high}`.length; length++) {
    const first = length === 1 ? 0n : 10n ** BigInt(length - 1);
    const last = 10n ** BigInt(length) - 1n;
    const [a, b] = [low > first ? low : first, high < last ? high : last];
    pieces.push(sameLength(net, `${a}`, `${b}`));
  }
  return net.choice(pieces);
}

/** Texts of digits from `low` to `high`, all as long as these. */
function sameLength(net: Network, low: string, high: string): Piece {
  if (low === high) return net.text(low);
  const rest = low.length - 1;
  if (/^0*$/.test(low) && /^9*$/.test(high))
    return net.repeat(digits(net, 0, 9), rest + 1, rest + 1);
  const [a, b] = [Number(low[0]), Number(high[0])];
  const after = (digit: number, from: string, to: string) =>
    net.sequence([digits(net, digit, digit), sameLength(net, from, to)]);
  if (a === b) return after(a, low.slice(1), high.slice(1));
  const [zeros, nines] = ["0".repeat(rest), "9".repeat(rest)];
  const pieces = [after(a, low.slice(1), nines), after(b, zeros, high.slice(1))];
  if (b - a > 1) {
    const free = net.repeat(digits(net, 0, 9), rest, rest);
    pieces.push(net.sequence([digits(net, a + 1, b - 1), free]));
  }
  return net.choice(pieces);
}

function digits(net: Network, low: number, high: number): Piece {
  return net.bytes(48 + low, 48 + high);
}

/** The part of a range that is not below 0, without a sign. */
function fromZero(net: Network, { low, high }: Bounds): Piece | null {
  if (high && (high.value < 0 || (high.value === 0 && high.exclusive))) return null;
  const lower = low && low.value >= 0 ? low : { value: 0, exclusive: false };
  const [from, fromDigits] = decimal(lower.value);
  const [to, toDigits] = high ? decimal(high.value) : [LARGEST, ""];
  if (from > to) return null;
  const room = Math.max(1, DIGITS - `${high ? to : from}`.length);
  const lowTail = { digits: fromDigits, exclusive: lower.exclusive };
  const highTail = high ? { digits: toDigits, exclusive: high.exclusive } : null;
  const pieces: Piece[] = [];
  const between = (whole: Piece, l: Tail | null, h: Tail | null) => {
    const alone = mayEnd(l, h) ? [net.empty()] : [];
    const fraction = tail(net, l, h, room, true);
    const some = fraction ? [net.sequence([net.text("."), fraction])] : [];
    if (alone.length + some.length > 0) {
      pieces.push(net.sequence([whole, net.choice([...alone, ...some])]));
    }
  };
  if (from === to) between(net.text(`${from}`), lowTail, highTail);
  else {
    between(net.text(`${from}`), lowTail, null);
    between(net.text(`${to}`), null, highTail);
    if (to - from > 1n) between(naturals(net, from + 1n, to - 1n), null, null);
  }
  return pieces.length === 0 ? null : net.choice(pieces);
}

/** A number from 0 on as its whole part and the digits behind the point. */
function decimal(value: number): [bigint, string] {
  if (value >= 1e15) return [LARGEST, ""];
  const [whole, fraction = ""] = value.toFixed(20).split(".") as [string, string?];
  // Of the digits of a double only as many are meant as it takes to tell it from others.
  const short = /e/.test(`${value}`) ? fraction : (`${value}`.split(".")[1] ?? "");
  return [BigInt(whole), short.replace(/0+$/, "")];
}

/** What is left of a bound's fraction. */
interface Tail {
  readonly digits: string;
  readonly exclusive: boolean;
}

/** Whether a number that ends here lies between what is left of its bounds; null: it does already. */
function mayEnd(low: Tail | null, high: Tail | null): boolean {
  const above = low === null || (low.digits === "" && !low.exclusive);
  const below = high === null || high.digits !== "" || !high.exclusive;
  return above && below;
}

/** Digits behind the point, `room` at most, one at least if `some`; null: none fit. */
function tail(
  net: Network,
  low: Tail | null,
  high: Tail | null,
  room: number,
  some: boolean,
): Piece | null {
  if (low === null && high === null) {
    return net.repeat(digits(net, 0, 9), some ? 1 : 0, room);
  }
  const pieces: Piece[] = !some && mayEnd(low, high) ? [net.empty()] : [];
  if (room > 0) {
    const first = low ? Number(low.digits[0] ?? 0) : 0;
    const last = high ? Number(high.digits[0] ?? 0) : 9;
    const rest = (t: Tail) => ({ ...t, digits: t.digits.slice(1) });
    const go = (a: number, b: number, l: Tail | null, h: Tail | null) => {
      if (a > b) return;
      const after = tail(net, l, h, room - 1, false);
      if (after) pieces.push(net.sequence([digits(net, a, b), after]));
    };
    if (low && high && first === last) go(first, first, rest(low), rest(high));
    else {
      if (low && first <= last) go(first, first, rest(low), null);
      if (high && first <= last) go(last, last, null, rest(high));
      go(low ? first + 1 : first, high ? last - 1 : last, null, null);
    }
  }
  return pieces.length === 0 ? null : net.choice(pieces);
}
