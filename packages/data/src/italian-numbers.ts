/** Whole numbers as Italian words. */
const SMALL = [
  ...["zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"],
  ...["dieci", "undici", "dodici", "tredici", "quattordici", "quindici", "sedici"],
  ...["diciassette", "diciotto", "diciannove"],
];
const TENS = ["", "", "venti", "trenta", "quaranta", "cinquanta", "sessanta", "settanta"].concat([
  "ottanta",
  "novanta",
]);

/**
 * 0 to 999,999 in words: 28 is "ventotto", 108 "centotto", 2023 "duemilaventitré".
 * @throws RangeError for other numbers
 */
export function italianNumber(n: number): string {
  if (!Number.isInteger(n) || n < 0 || n > 999_999) {
    throw new RangeError(`expected a whole number from 0 to 999999, got ${n}`);
  }
  const words = joined(n);
  // "tre" is stressed, and so written "tré", where a longer word ends in it.
  return n > 3 && words.endsWith("tre") ? `${words.slice(0, -1)}é` : words;
}

function joined(n: number): string {
  if (n < 20) return SMALL[n] as string;
  if (n < 100) {
    const tens = TENS[Math.floor(n / 10)] as string;
    const unit = n % 10;
    if (unit === 0) return tens;
    // The vowel before uno and otto falls away.
    return `${unit === 1 || unit === 8 ? tens.slice(0, -1) : tens}${SMALL[unit]}`;
  }
  if (n < 1000) {
    const [hundreds, rest] = [Math.floor(n / 100), n % 100];
    const head = `${hundreds === 1 ? "" : SMALL[hundreds]}cento`;
    if (rest === 0) return head;
    const tail = joined(rest);
    return tail.startsWith("ott") ? `${head.slice(0, -1)}${tail}` : `${head}${tail}`;
  }
  const [thousands, rest] = [Math.floor(n / 1000), n % 1000];
  const head = thousands === 1 ? "mille" : `${joined(thousands)}mila`;
  return rest === 0 ? head : `${head}${joined(rest)}`;
}
