/**
 * Copies between JavaScript's memory and the device's. The device copies only from page-locked memory
 * without stopping the host, so data passes through a ring of such slots; a slot is used again once the
 * copy that last used it has run.
 */
import type { Device } from "./device.ts";

const SLOT_BYTES = 4 << 20;
const SLOTS = 8;

interface Slot {
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly event: number;
}

export class Staging {
  readonly #device: Device;
  readonly #slots: Slot[] = [];
  readonly #address: number;
  #next = 0;

  constructor(device: Device) {
    this.#device = device;
    const { address, bytes } = device.allocateHost(SLOT_BYTES * SLOTS);
    this.#address = address;
    for (let i = 0; i < SLOTS; i++) {
      const at = i * SLOT_BYTES;
      this.#slots.push({
        address: address + at,
        bytes: bytes.subarray(at, at + SLOT_BYTES),
        event: device.createEvent(),
      });
    }
  }

  /** Enqueues a copy; the data may be changed as soon as this returns. */
  write(to: number, data: Uint8Array): void {
    for (let at = 0; at < data.length; at += SLOT_BYTES) {
      const part = data.subarray(at, at + SLOT_BYTES);
      const slot = this.#take();
      this.#device.waitEvent(slot.event);
      slot.bytes.set(part);
      this.#device.copyToDevice(to + at, slot.address, part.length);
      this.#device.recordEvent(slot.event);
    }
  }

  /** Waits for all work so far and copies out, blocking. */
  readSync(from: number, length: number): Uint8Array {
    const result = new Uint8Array(length);
    for (const [at, slot] of this.#chunks(from, length)) {
      this.#device.waitEvent(slot.event);
      copyOut(slot, result, at);
    }
    return result;
  }

  /** The same, giving way to other work while the device is busy. */
  async read(from: number, length: number): Promise<Uint8Array> {
    const result = new Uint8Array(length);
    for (const [at, slot] of this.#chunks(from, length)) {
      await eventPassed(this.#device, slot.event);
      copyOut(slot, result, at);
    }
    return result;
  }

  /** One chunk at a time is in flight, so that a slot's data is taken before its next use. */
  *#chunks(from: number, length: number): Generator<[number, Slot]> {
    for (let at = 0; at < length; at += SLOT_BYTES) {
      const slot = this.#take();
      this.#device.waitEvent(slot.event);
      this.#device.copyToHost(slot.address, from + at, Math.min(SLOT_BYTES, length - at));
      this.#device.recordEvent(slot.event);
      yield [at, slot];
    }
  }

  #take(): Slot {
    const slot = this.#slots[this.#next] as Slot;
    this.#next = (this.#next + 1) % SLOTS;
    return slot;
  }

  dispose(): void {
    for (const slot of this.#slots) this.#device.destroyEvent(slot.event);
    this.#device.releaseHost(this.#address);
  }
}

function copyOut(slot: Slot, result: Uint8Array, at: number): void {
  result.set(slot.bytes.subarray(0, Math.min(SLOT_BYTES, result.length - at)), at);
}

/** Polls: first at every turn of the event loop, then, for long work, once a millisecond. */
export async function eventPassed(device: Device, event: number): Promise<void> {
  const start = performance.now();
  while (!device.eventDone(event)) {
    const patient = performance.now() - start > 20;
    await new Promise<void>((done) => {
      if (patient) setTimeout(done, 1);
      else setImmediate(done);
    });
  }
}
