/** Server-sent events as they come (https://html.spec.whatwg.org/multipage/server-sent-events.html). */

/**
 * The data of each event. Nothing is read ahead: who takes slowly slows down who sends.
 * @throws Error for an event of more than so many characters; what the stream fails with
 */
export async function* eventData(
  bytes: AsyncIterable<Uint8Array>,
  most: number,
): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  let data: string[] = [];
  let length = 0;
  for await (const chunk of bytes) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop()!;
    for (const line of lines) {
      if (line === "" && data.length > 0) {
        yield data.join("\n");
        data = [];
        length = 0;
      } else if (line.startsWith("data:")) {
        data.push(line.slice(line[5] === " " ? 6 : 5));
        length += line.length;
      }
    }
    if (length + rest.length > most) throw new Error(`an event has more than ${most} characters`);
  }
  // Some servers forget the empty line after the last.
  if (rest.startsWith("data:")) data.push(rest.replace(/^data: ?/, "").trimEnd());
  if (data.length > 0) yield data.join("\n");
}
