/** For tests: reads event files by the format's definition, in other ways than they are written. */

export interface ReadEvent {
  wallTime?: number;
  step?: number;
  fileVersion?: string;
  sessionStatus?: number;
  scalars?: [tag: string, value: number][];
}

/** @throws Error for a record that is cut or whose checksums are wrong */
export function readEvents(file: Uint8Array): ReadEvent[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const events: ReadEvent[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(view.getBigUint64(at, true));
    checkCrc(file.subarray(at, at + 8), view.getUint32(at + 8, true));
    const data = file.subarray(at + 12, at + 12 + length);
    checkCrc(data, view.getUint32(at + 12 + length, true));
    events.push(readEvent(data));
    at += 16 + length;
  }
  return events;
}

function readEvent(data: Uint8Array): ReadEvent {
  const event: ReadEvent = {};
  for (const { field, value } of fields(data)) {
    if (field === 1) event.wallTime = toDouble(value);
    else if (field === 2) event.step = Number(value);
    else if (field === 3) event.fileVersion = toText(value);
    else if (field === 5)
      event.scalars = fields(value as Uint8Array).map((v) => readValue(v.value));
    else if (field === 7) event.sessionStatus = Number(fields(value as Uint8Array)[0]?.value);
    else throw new Error(`an event has no field ${field}`);
  }
  return event;
}

function readValue(value: Value): [string, number] {
  const read = new Map(fields(value as Uint8Array).map((f) => [f.field, f.value]));
  const bytes = read.get(2) as Uint8Array;
  return [toText(read.get(1)), new DataView(bytes.buffer, bytes.byteOffset).getFloat32(0, true)];
}

type Value = bigint | Uint8Array;

function fields(data: Uint8Array): { field: number; value: Value }[] {
  const found: { field: number; value: Value }[] = [];
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = data[at++] as number;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < data.length) {
    const tag = Number(varint());
    const wire = tag & 7;
    if (wire === 0) {
      found.push({ field: tag >> 3, value: varint() });
    } else {
      const length = wire === 1 ? 8 : wire === 5 ? 4 : Number(varint());
      if (at + length > data.length) throw new Error("a field is cut");
      found.push({ field: tag >> 3, value: data.subarray(at, at + length) });
      at += length;
    }
  }
  return found;
}

const toText = (value: Value | undefined) => new TextDecoder().decode(value as Uint8Array);

function toDouble(value: Value): number {
  const bytes = value as Uint8Array;
  return new DataView(bytes.buffer, bytes.byteOffset).getFloat64(0, true);
}

/** CRC-32C as a remainder of polynomials, bit by bit; then TFRecord's mask undone. */
function checkCrc(data: Uint8Array, masked: number): void {
  const turned = (masked - 0xa282ead8) >>> 0;
  const written = ((turned << 15) | (turned >>> 17)) >>> 0;
  if (crc32c(data) !== written) throw new Error("a checksum is wrong");
}

export function crc32c(data: Uint8Array): number {
  let remainder = 0xffffffffn;
  for (const byte of data) {
    for (let bit = 0; bit < 8; bit++) {
      const top = (remainder >> 31n) ^ BigInt((byte >> bit) & 1);
      remainder = ((remainder << 1n) & 0xffffffffn) ^ (top ? 0x1edc6f41n : 0n);
    }
  }
  let reflected = 0;
  for (let bit = 0; bit < 32; bit++) {
    if ((~remainder >> BigInt(bit)) & 1n) reflected += 2 ** (31 - bit);
  }
  return reflected;
}
