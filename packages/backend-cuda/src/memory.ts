/**
 * Device memory. cuMemAlloc takes long and waits for the device, so memory is taken in large blocks and
 * handed out from them, best fit first; neighbouring free pieces are joined. All work runs in order on
 * one stream, so a piece may be given out again at once: whoever had it before has run by then.
 */
import { CudaError, type Device } from "./device.ts";

/** Pieces are multiples of this; it is also their alignment. */
const UNIT = 512;
/** Smallest block taken from the device. */
const BLOCK = 64 << 20;

interface Piece {
  readonly block: number;
  readonly address: number;
  bytes: number;
  free: boolean;
  previous: Piece | undefined;
  next: Piece | undefined;
}

type Source = Pick<Device, "allocate" | "release" | "memory" | "synchronize">;

export class MemoryPool {
  readonly #device: Source;
  readonly #free = new Set<Piece>();
  readonly #used = new Map<number, Piece>();
  readonly #blocks = new Map<number, number>();
  #liveBytes = 0;
  #peakBytes = 0;

  constructor(device: Source) {
    this.#device = device;
  }

  /** Bytes handed out now, and the most so far. */
  get liveBytes(): number {
    return this.#liveBytes;
  }

  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** Bytes taken from the device. */
  get reservedBytes(): number {
    return [...this.#blocks.values()].reduce((a, b) => a + b, 0);
  }

  /**
   * @param purpose ends the message when there is not enough: "for the scratch memory of step"
   * @throws CudaError saying who wanted how much, what is live and what the device has
   */
  allocate(bytes: number, purpose: string): number {
    const size = Math.max(1, Math.ceil(bytes / UNIT)) * UNIT;
    const piece = this.#bestFit(size) ?? this.#grow(size);
    if (piece === undefined) throw new CudaError(this.#outOfMemory(bytes, purpose));
    this.#free.delete(piece);
    if (piece.bytes > size) {
      const rest: Piece = {
        block: piece.block,
        address: piece.address + size,
        bytes: piece.bytes - size,
        free: true,
        previous: piece,
        next: piece.next,
      };
      if (piece.next) piece.next.previous = rest;
      piece.next = rest;
      piece.bytes = size;
      this.#free.add(rest);
    }
    piece.free = false;
    this.#used.set(piece.address, piece);
    this.#liveBytes += size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes);
    return piece.address;
  }

  free(address: number): void {
    const piece = this.#used.get(address);
    if (piece === undefined)
      throw new CudaError(`address ${address} is not allocated, or was freed before`);
    this.#used.delete(address);
    this.#liveBytes -= piece.bytes;
    piece.free = true;
    this.#free.add(piece);
    if (piece.next?.free) this.#join(piece, piece.next);
    if (piece.previous?.free) this.#join(piece.previous, piece);
  }

  /** Gives everything back to the device. */
  dispose(): void {
    for (const address of this.#blocks.keys()) this.#device.release(address);
    this.#blocks.clear();
    this.#free.clear();
    this.#used.clear();
    this.#liveBytes = 0;
  }

  #bestFit(size: number): Piece | undefined {
    let best: Piece | undefined;
    for (const piece of this.#free) {
      if (piece.bytes < size) continue;
      if (
        best === undefined ||
        piece.bytes < best.bytes ||
        (piece.bytes === best.bytes && piece.address < best.address)
      )
        best = piece;
    }
    return best;
  }

  #grow(size: number): Piece | undefined {
    const bytes = Math.max(BLOCK, Math.ceil(size / (2 << 20)) * (2 << 20));
    let address = this.#device.allocate(bytes);
    if (address === undefined) {
      // Blocks that nothing lives in may add up to what is missing.
      this.#releaseEmptyBlocks();
      address = this.#device.allocate(bytes) ?? undefined;
    }
    if (address === undefined) return undefined;
    this.#blocks.set(address, bytes);
    const piece: Piece = {
      block: address,
      address,
      bytes,
      free: true,
      previous: undefined,
      next: undefined,
    };
    this.#free.add(piece);
    return piece;
  }

  #releaseEmptyBlocks(): void {
    this.#device.synchronize();
    for (const piece of this.#free) {
      if (piece.previous || piece.next) continue;
      this.#free.delete(piece);
      this.#blocks.delete(piece.block);
      this.#device.release(piece.block);
    }
  }

  /** `right` becomes part of `left`. */
  #join(left: Piece, right: Piece): void {
    left.bytes += right.bytes;
    left.next = right.next;
    if (right.next) right.next.previous = left;
    this.#free.delete(right);
  }

  #outOfMemory(bytes: number, purpose: string): string {
    const { free, total } = this.#device.memory();
    const idle = [...this.#free].map((p) => p.bytes);
    return (
      `out of GPU memory: ${gib(bytes)} wanted ${purpose}, while ${this.#used.size} buffers hold ` +
      `${gib(this.#liveBytes)} and the largest free piece has ${gib(Math.max(0, ...idle))}; the device ` +
      `has ${gib(free)} free of ${gib(total)}. Use a smaller batch or sequence, remat(), or free tensors`
    );
  }
}

function gib(bytes: number): string {
  return bytes < 1 << 30
    ? `${(bytes / 2 ** 20).toFixed(1)} MiB`
    : `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
