/**
 * Metrics as TensorBoard reads them: an event file is a list of records (TFRecord, described in
 * tensorflow/core/lib/io/record_writer.h), each an `Event` message (tensorflow/core/util/event.proto)
 * in the protocol buffers' wire format. The few fields that scalars need are written by hand.
 */
import { hostname } from "node:os";

/** Points of curves at one step. */
export interface ScalarEvent {
  readonly step: number;
  /** Seconds since 1970. */
  readonly wallTime: number;
  readonly scalars: readonly (readonly [tag: string, value: number])[];
}

/** The name of an event file: TensorBoard knows it by its middle, and reads those of a folder in order. */
export function eventFileName(wallTime: number): string {
  return `events.out.tfevents.${Math.floor(wallTime)}.${hostname()}.${process.pid}`;
}

/** Whether a file is one of ours or TensorBoard's own. */
export function isEventFile(name: string): boolean {
  return name.startsWith("events.out.tfevents.");
}

/**
 * What an event file begins with: its version, and the start of a session at `step`, upon which
 * TensorBoard forgets what earlier files of the folder said of that step and later ones.
 */
export function eventFileHead(wallTime: number, step: number): Uint8Array {
  const version = message([double(1, wallTime), text(3, "brain.Event:2")]);
  const started = message([varint(1, SESSION_START)]);
  const session = message([double(1, wallTime), varint(2, step), bytes(7, started)]);
  return Buffer.concat([record(version), record(session)]);
}

/** `SessionLog.SessionStatus.START`. */
const SESSION_START = 1;

/** The record of an event: nothing when it has no scalars. */
export function eventRecord({ step, wallTime, scalars }: ScalarEvent): Uint8Array {
  if (scalars.length === 0) return new Uint8Array();
  const values = scalars.map(([tag, value]) => bytes(1, message([text(1, tag), float(2, value)])));
  return record(message([double(1, wallTime), varint(2, step), bytes(5, message(values))]));
}

/** Length, its checksum, the data, its checksum: little-endian. */
function record(data: Uint8Array): Uint8Array {
  const framed = Buffer.alloc(data.length + 16);
  framed.writeBigUInt64LE(BigInt(data.length), 0);
  framed.writeUInt32LE(maskedCrc(framed.subarray(0, 8)), 8);
  framed.set(data, 12);
  framed.writeUInt32LE(maskedCrc(data), 12 + data.length);
  return framed;
}

/** CRC-32C (Castagnoli, reflected), turned and shifted so that checksums of checksums differ. */
function maskedCrc(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = (CRC_TABLE[(crc ^ byte) & 0xff] as number) ^ (crc >>> 8);
  crc = ~crc;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

const CRC_TABLE: Uint32Array = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** Fields of a message: a number and a wire type, then the value (protobuf.dev, "Encoding"). */
const message = (fields: readonly Uint8Array[]): Uint8Array => Buffer.concat(fields);

function varint(field: number, value: number): Uint8Array {
  return Buffer.concat([digits(field << 3), digits(value)]);
}

function double(field: number, value: number): Uint8Array {
  const buffer = Buffer.alloc(9);
  buffer[0] = (field << 3) | 1;
  buffer.writeDoubleLE(value, 1);
  return buffer;
}

function float(field: number, value: number): Uint8Array {
  const buffer = Buffer.alloc(5);
  buffer[0] = (field << 3) | 5;
  buffer.writeFloatLE(value, 1);
  return buffer;
}

function bytes(field: number, value: Uint8Array): Uint8Array {
  return Buffer.concat([digits((field << 3) | 2), digits(value.length), value]);
}

const text = (field: number, value: string): Uint8Array => bytes(field, Buffer.from(value));

/** Seven bits to a byte, the lowest first; each but the last has its eighth set. */
function digits(value: number): Uint8Array {
  const out: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) out.push((rest % 128) | 128);
  out.push(rest);
  return Uint8Array.from(out);
}
