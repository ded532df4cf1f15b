/**
 * The heap: one shared WebAssembly memory, handed out in blocks by a two-level segregated fit
 * (M. Masmano et al., "TLSF: a new dynamic memory allocator for real-time systems", 2004): free
 * blocks lie in bins by size, eight to a power of two, and two bitmaps find the first bin whose
 * blocks are all large enough. Neighbouring free blocks are joined at once. All bookkeeping is in
 * JavaScript objects; nothing is stored inside blocks.
 *
 * Addresses are 32 bits. A 64-bit memory would change the address type of the assembler's memory
 * instructions and the words in which the step tables keep addresses (executable.ts, driver.ts);
 * this file would only change `ADDRESS_LIMIT`.
 */
import type { DeviceBuffer, MemoryStats } from "@dsv3/tensor";

const PAGE = 65536;
const ALIGN = 64;
/** 4 GiB less a page, so that the end of every block is an address too. */
const ADDRESS_LIMIT = 2 ** 32 - PAGE;

/** A piece of memory, free or in use, and its neighbours in address order. */
interface Block {
  address: number;
  size: number;
  free: boolean;
  lower: Block | undefined;
  upper: Block | undefined;
  /** Place in its bin, while free. */
  place: number;
}

/** A buffer of this backend: a view of some bytes of the heap. */
export class WasmBuffer implements DeviceBuffer {
  readonly bytes: number;
  /** Heap that owns the buffer; undefined once it has been freed. */
  owner: Heap | undefined;
  readonly block: Block;

  constructor(owner: Heap, block: Block, bytes: number) {
    this.owner = owner;
    this.block = block;
    this.bytes = bytes;
  }

  get address(): number {
    return this.block.address;
  }
}

export interface MemorySize {
  /** Bytes to start with, and the most the heap may grow to. */
  readonly initial?: number;
  readonly maximum?: number;
}

export class Heap {
  readonly memory: WebAssembly.Memory;
  readonly #limit: number;
  #bytes: Uint8Array<ArrayBufferLike>;
  readonly #bins: Block[][] = Array.from({ length: 32 * 8 }, () => []);
  /** Bit c of #classes: some bin of size class c holds a block; bit s of #subclasses[c]: bin s does. */
  #classes = 0;
  readonly #subclasses = new Int32Array(32);
  #last: Block | undefined;
  #liveBytes = 0;
  #liveBuffers = 0;
  #scratchBytes = 0;
  #peakBytes = 0;

  /** @param reserved bytes at address 0 that are never handed out */
  constructor(reserved: number, { initial = 2 ** 20, maximum = ADDRESS_LIMIT }: MemorySize = {}) {
    const whole = (bytes: number) => Math.ceil(bytes / PAGE) * PAGE;
    if (!(maximum > reserved && maximum <= ADDRESS_LIMIT)) {
      throw new RangeError(
        `memory.maximum is ${maximum} bytes, but must lie between ${reserved} and ${ADDRESS_LIMIT} (4 GiB − 64 KiB)`,
      );
    }
    if (!(initial >= 0 && initial <= maximum)) {
      throw new RangeError(
        `memory.initial is ${initial} bytes, but must lie between 0 and memory.maximum (${maximum})`,
      );
    }
    this.#limit = whole(maximum);
    const start = whole(Math.max(initial, reserved + ALIGN));
    try {
      this.memory = new WebAssembly.Memory({
        initial: start / PAGE,
        maximum: this.#limit / PAGE,
        shared: true,
      });
    } catch (cause) {
      throw new Error(
        `no address space for a shared WebAssembly memory of up to ${this.#limit} bytes; pass a smaller memory.maximum to wasmBackend`,
        { cause },
      );
    }
    this.#bytes = new Uint8Array(this.memory.buffer);
    const address = Math.ceil(reserved / ALIGN) * ALIGN;
    this.#append(address, start - address);
  }

  /** All of memory as bytes; fetch it anew after anything that may allocate. */
  get bytes(): Uint8Array<ArrayBufferLike> {
    return this.#bytes;
  }

  /** All of memory as 32-bit words. */
  get words(): Int32Array<ArrayBufferLike> {
    return new Int32Array(this.#bytes.buffer);
  }

  alloc(bytes: number): WasmBuffer {
    const block = this.#take(bytes, "a buffer");
    this.#liveBytes += bytes;
    this.#liveBuffers++;
    this.#notePeak();
    return new WasmBuffer(this, block, bytes);
  }

  free(buffer: WasmBuffer): void {
    if (buffer.owner !== this) throw freedOrForeign(buffer);
    buffer.owner = undefined;
    this.#give(buffer.block);
    this.#liveBytes -= buffer.bytes;
    this.#liveBuffers--;
  }

  /** Memory for the backend's own use, counted in no statistic. */
  reserve(bytes: number, what: string): Block {
    return this.#take(bytes, what);
  }

  release(block: Block): void {
    this.#give(block);
  }

  /** Scratch memory of programs: like `reserve`, but counted. */
  reserveScratch(bytes: number, what: string): Block {
    const block = this.#take(bytes, what);
    this.#scratchBytes += block.size;
    this.#notePeak();
    return block;
  }

  releaseScratch(block: Block): void {
    this.#scratchBytes -= block.size;
    this.#give(block);
  }

  stats(): MemoryStats {
    return {
      liveBytes: this.#liveBytes,
      liveBuffers: this.#liveBuffers,
      scratchBytes: this.#scratchBytes,
      peakBytes: this.#peakBytes,
    };
  }

  #notePeak(): void {
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes + this.#scratchBytes);
  }

  #take(bytes: number, what: string): Block {
    if (!Number.isSafeInteger(bytes) || bytes < 0) {
      throw new RangeError(`${what} of ${bytes} bytes: a size is a whole number ≥ 0`);
    }
    const size = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
    const block = this.#find(size) ?? this.#grow(size, what);
    this.#unbin(block);
    block.free = false;
    if (block.size > size) {
      const rest: Block = {
        address: block.address + size,
        size: block.size - size,
        free: true,
        lower: block,
        upper: block.upper,
        place: 0,
      };
      if (rest.upper) rest.upper.lower = rest;
      else this.#last = rest;
      block.upper = rest;
      block.size = size;
      this.#bin(rest);
    }
    return block;
  }

  #give(block: Block): void {
    let whole = block;
    const { lower, upper } = block;
    if (upper?.free) {
      this.#unbin(upper);
      this.#absorb(block, upper);
    }
    if (lower?.free) {
      this.#unbin(lower);
      this.#absorb(lower, block);
      whole = lower;
    }
    whole.free = true;
    this.#bin(whole);
  }

  #absorb(lower: Block, upper: Block): void {
    lower.size += upper.size;
    lower.upper = upper.upper;
    if (upper.upper) upper.upper.lower = lower;
    else this.#last = lower;
  }

  /** The first free block that is surely large enough, or one of the right bin that happens to be. */
  #find(size: number): Block | undefined {
    const exact = binOf(size);
    const fits = this.#bins[exact]?.findLast((block) => block.size >= size);
    if (fits) return fits;
    const bin = exact + 1;
    const sub = (this.#subclasses[bin >>> 3] as number) & (-1 << (bin & 7));
    if (sub !== 0) return this.#bins[(bin & ~7) | ctz(sub)]?.at(-1);
    const above = (bin >>> 3) + 1;
    const classes = above > 31 ? 0 : this.#classes & (-1 << above);
    if (classes === 0) return undefined;
    const first = ctz(classes);
    return this.#bins[first * 8 + ctz(this.#subclasses[first] as number)]?.at(-1);
  }

  #grow(size: number, what: string): Block {
    const end = this.#bytes.length;
    const atEnd = this.#last?.free ? this.#last.size : 0;
    const missing = size - atEnd;
    // At least 4 MiB or an eighth more, to grow seldom.
    const wish = Math.max(missing, 2 ** 22, end / 8);
    const room = this.#limit - end;
    const more =
      Math.ceil(Math.min(Math.max(missing, Math.min(wish, room)), 2 ** 33) / PAGE) * PAGE;
    let grown = more <= room;
    if (grown) {
      try {
        this.memory.grow(more / PAGE);
      } catch {
        grown = false;
      }
    }
    if (!grown) {
      const free = this.#bins.flat().reduce((sum, block) => sum + block.size, 0);
      throw new Error(
        `out of memory: ${what} needs ${size} bytes, but of ${this.#limit} bytes ${this.#liveBytes} are in ` +
          `${this.#liveBuffers} live buffers and ${this.#scratchBytes} in scratch memory; ${room + free} are left, ` +
          "not all in one piece. Dispose of tensors that are no longer needed, make the batch smaller, use " +
          "a narrower dtype, or recompute more (remat); a heap that was given a smaller memory.maximum may be given more",
      );
    }
    this.#bytes = new Uint8Array(this.memory.buffer);
    this.#append(end, more);
    return this.#last as Block;
  }

  /** Adds free memory at the end. */
  #append(address: number, size: number): void {
    const block: Block = {
      address,
      size,
      free: false,
      lower: this.#last,
      upper: undefined,
      place: 0,
    };
    if (this.#last) this.#last.upper = block;
    this.#last = block;
    this.#give(block);
  }

  #bin(block: Block): void {
    const bin = binOf(block.size);
    block.place = (this.#bins[bin] as Block[]).push(block) - 1;
    this.#classes |= 1 << (bin >>> 3);
    (this.#subclasses[bin >>> 3] as number) |= 1 << (bin & 7);
  }

  #unbin(block: Block): void {
    const number = binOf(block.size);
    const bin = this.#bins[number] as Block[];
    const last = bin.pop() as Block;
    if (last !== block) {
      bin[block.place] = last;
      last.place = block.place;
    }
    if (bin.length > 0) return;
    (this.#subclasses[number >>> 3] as number) &= ~(1 << (number & 7));
    if (this.#subclasses[number >>> 3] === 0) this.#classes &= ~(1 << (number >>> 3));
  }
}

export type { Block };

/** Bin of a size: eight to a power of two. Sizes are multiples of 64 below 2^32. */
function binOf(size: number): number {
  const log = 31 - Math.clz32(size);
  return log * 8 + ((size >>> (log - 3)) & 7);
}

/** Trailing zero bits of a number other than 0. */
function ctz(x: number): number {
  return 31 - Math.clz32(x & -x);
}

/** The error for a buffer that cannot be used here. */
export function freedOrForeign(buffer: DeviceBuffer): Error {
  return buffer instanceof WasmBuffer && buffer.owner === undefined
    ? new Error(
        `a buffer of ${buffer.bytes} bytes is used after it was freed; it was disposed of, or donated to a program`,
      )
    : new Error(
        `a buffer of ${buffer.bytes} bytes belongs to another backend; read it and write it here`,
      );
}
