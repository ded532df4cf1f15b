/** Rewards by rule: what a program can say of a reply (section 5.2.1 of the report). */

/** What stands in the last `\boxed{…}` of a reply, trimmed; brackets inside must pair. */
export function boxedAnswer(reply: string): string | undefined {
  const open = "\\boxed{";
  for (let from = reply.lastIndexOf(open); from >= 0; from = reply.lastIndexOf(open, from - 1)) {
    let depth = 1;
    for (let at = from + open.length; at < reply.length; at++) {
      if (reply[at] === "{") depth++;
      else if (reply[at] === "}" && --depth === 0) {
        return reply.slice(from + open.length, at).trim();
      }
    }
    if (from === 0) break;
  }
  return undefined;
}

/** 1 when the box holds exactly the expected text, else 0. */
export function exactReward(expected: string, reply: string): number {
  return boxedAnswer(reply) === expected.trim() ? 1 : 0;
}

/** 1 when the box holds the expected number, however it is written ("1,000.0" is 1000), else 0. */
export function numberReward(expected: number, reply: string): number {
  const digits = boxedAnswer(reply)?.replaceAll(/(?<=\d),(?=\d{3}(?!\d))/g, "");
  if (digits === undefined || !/^[-+]?(\d+\.?\d*|\.\d+)$/.test(digits)) return 0;
  return Number(digits) === expected ? 1 : 0;
}

/** 1 when the whole reply has the form, else 0. @param form not sticky and not global */
export function formatReward(form: RegExp, reply: string): number {
  return reply.match(new RegExp(`^(?:${form.source})$`, form.flags))?.index === 0 ? 1 : 0;
}

/**
 * DAPO's soft punishment of length (arXiv 2503.14476, eq. 13): 0 up to `limit − margin` tokens, then
 * down in a line to −1 at `limit`, and −1 beyond.
 */
export function lengthReward(
  tokens: number,
  { limit, margin }: { limit: number; margin: number },
): number {
  const over = tokens - (limit - margin);
  if (over <= 0) return 0;
  return tokens >= limit ? -1 : -over / margin;
}
