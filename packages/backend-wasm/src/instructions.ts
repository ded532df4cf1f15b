/**
 * WebAssembly instructions as typed expressions. An expression is a small tree: operands first, then
 * an opcode. `i32.add(x, 4)` is a value that nothing has computed yet; a function builder (asm.ts)
 * writes it out where it is used, so an expression used twice is computed twice: keep it in a local.
 *
 * Names are the specification's in camel case (`i32x4.trunc_sat_f32x4_s` → `i32x4.truncSatF32x4S`);
 * opcodes from the WebAssembly core specification 3.0, chapter 5.4 (SIMD and relaxed SIMD included),
 * and the threads proposal.
 */

export type ValType = "i32" | "i64" | "f32" | "f64" | "v128";

/** An expression: emits its operands, then `op` (opcode and immediates). */
export interface Value<T extends ValType | "void" = ValType | "void"> {
  readonly type: T;
  readonly op: readonly number[];
  readonly args: readonly Value[];
}

/** Where a scalar is expected, a number stands for a constant. */
export type Operand<T extends ValType> = T extends "i64" | "v128" ? Value<T> : Value<T> | number;

type Operands<In extends readonly ValType[]> = { [I in keyof In]: Operand<In[I]> };

/** One function for each opcode of a table. */
type Ops<Table, In extends readonly ValType[], Out extends ValType | "void"> = {
  readonly [K in keyof Table]: (...args: Operands<In>) => Value<Out>;
};

/** Memory instructions: the address is `address + offset`, offset a constant ≥ 0. */
type Loads<Table, Out extends ValType> = {
  readonly [K in keyof Table]: (address: Operand<"i32">, offset?: number) => Value<Out>;
};
type Stores<Table, In extends ValType> = {
  readonly [K in keyof Table]: (
    address: Operand<"i32">,
    value: Operand<In>,
    offset?: number,
  ) => Value<"void">;
};

/** Unsigned LEB128; numbers up to 2^53. */
export function leb(n: number): number[] {
  const bytes: number[] = [];
  do {
    const low = n % 128;
    n = Math.floor(n / 128);
    bytes.push(n > 0 ? low | 128 : low);
  } while (n > 0);
  return bytes;
}

/** Signed LEB128. */
export function signedLeb(n: number | bigint): number[] {
  const bytes: number[] = [];
  let rest = BigInt(n);
  for (;;) {
    const low = Number(rest & 127n);
    rest >>= 7n;
    const last = (rest === 0n && (low & 64) === 0) || (rest === -1n && (low & 64) !== 0);
    bytes.push(last ? low : low | 128);
    if (last) return bytes;
  }
}

const convert = new DataView(new ArrayBuffer(8));

function floatBytes(x: number, bytes: 4 | 8): number[] {
  if (bytes === 4) convert.setFloat32(0, x, true);
  else convert.setFloat64(0, x, true);
  return Array.from({ length: bytes }, (_, i) => convert.getUint8(i));
}

/** A constant. i32 takes any integer in [−2^31, 2^32). */
export function constant<T extends Exclude<ValType, "v128">>(
  type: T,
  n: number | bigint,
): Value<T> {
  const op = {
    i32: () => [0x41, ...signedLeb(Number(n) | 0)],
    i64: () => [0x42, ...signedLeb(BigInt.asIntN(64, BigInt(n)))],
    f32: () => [0x43, ...floatBytes(Number(n), 4)],
    f64: () => [0x44, ...floatBytes(Number(n), 8)],
  }[type as "i32"]();
  return { type, op, args: [] };
}

/** An operand as an expression. */
export function value<T extends ValType>(type: T, operand: Operand<T>): Value<T> {
  return typeof operand === "number"
    ? (constant(type as "i32", operand) as Value as Value<T>)
    : (operand as Value<T>);
}

/** `prefix` is 0 for the one-byte opcodes, 0xfd for SIMD, 0xfe for atomics. */
const opcode = (prefix: number, code: number) => (prefix ? [prefix, ...leb(code)] : [code]);

function ops<
  Table extends object,
  const In extends readonly ValType[],
  Out extends ValType | "void",
>(prefix: number, inputs: In, out: Out, table: Table): Ops<Table, In, Out> {
  const entries = Object.entries(table).map(([name, code]) => {
    const op = opcode(prefix, code);
    const make = (...args: Operand<ValType>[]) => ({
      type: out,
      op,
      args: inputs.map((type, i) => value(type, args[i] as Operand<typeof type>)),
    });
    return [name, make];
  });
  return Object.fromEntries(entries);
}

/** Table entries are [opcode, bytes accessed]. The alignment immediate is a hint, except for atomics. */
type MemoryTable = Readonly<Record<string, readonly [code: number, bytes: number]>>;
const memoryOp = (prefix: number, [code, bytes]: readonly [number, number], offset: number) => [
  ...opcode(prefix, code),
  ...leb(prefix === 0xfe ? Math.log2(bytes) : 0),
  ...leb(offset),
];

function loads<Table extends MemoryTable, Out extends ValType>(
  prefix: number,
  out: Out,
  table: Table,
): Loads<Table, Out> {
  const entries = Object.entries(table).map(([name, entry]) => [
    name,
    (address: Operand<"i32">, offset = 0) => ({
      type: out,
      op: memoryOp(prefix, entry, offset),
      args: [value("i32", address)],
    }),
  ]);
  return Object.fromEntries(entries);
}

function stores<Table extends MemoryTable, In extends ValType>(
  prefix: number,
  input: In,
  table: Table,
): Stores<Table, In> {
  const entries = Object.entries(table).map(([name, entry]) => [
    name,
    (address: Operand<"i32">, x: Operand<In>, offset = 0) => ({
      type: "void",
      op: memoryOp(prefix, entry, offset),
      args: [value("i32", address), value(input, x)],
    }),
  ]);
  return Object.fromEntries(entries);
}

// ---- i32 ------------------------------------------------------------------------------------

// biome-ignore format: a table of opcodes
const I32_UNARY = { eqz: 0x45, clz: 0x67, ctz: 0x68, popcnt: 0x69, extend8S: 0xc0, extend16S: 0xc1 } as const;
// biome-ignore format: a table of opcodes
const I32_BINARY = {
  eq: 0x46, ne: 0x47, ltS: 0x48, ltU: 0x49, gtS: 0x4a, gtU: 0x4b, leS: 0x4c, leU: 0x4d, geS: 0x4e, geU: 0x4f,
  add: 0x6a, sub: 0x6b, mul: 0x6c, divS: 0x6d, divU: 0x6e, remS: 0x6f, remU: 0x70,
  and: 0x71, or: 0x72, xor: 0x73, shl: 0x74, shrS: 0x75, shrU: 0x76, rotl: 0x77, rotr: 0x78,
} as const;
// biome-ignore format: a table of opcodes
const I32_LOADS = { load: [0x28, 4], load8S: [0x2c, 1], load8U: [0x2d, 1], load16S: [0x2e, 2], load16U: [0x2f, 2] } as const;
// biome-ignore format: a table of opcodes
const I32_STORES = { store: [0x36, 4], store8: [0x3a, 1], store16: [0x3b, 2] } as const;
// biome-ignore format: a table of opcodes
const I32_FROM_F32 = { reinterpretF32: 0xbc } as const;
// biome-ignore format: a table of opcodes
const I32_FROM_I64 = { wrapI64: 0xa7 } as const;
// biome-ignore format: a table of opcodes
const TRUNC_SAT = { truncSatF32S: 0, truncSatF32U: 1 } as const; // prefix 0xfc
// biome-ignore format: a table of opcodes
const I32_ATOMIC_LOADS = { atomicLoad: [0x10, 4] } as const;
// biome-ignore format: a table of opcodes
const I32_ATOMIC_STORES = { atomicStore: [0x17, 4] } as const;

interface I32 {
  const(n: number): Value<"i32">;
  /** Adds to memory and gives the old value. */
  atomicAdd(address: Operand<"i32">, x: Operand<"i32">, offset?: number): Value<"i32">;
  atomicExchange(address: Operand<"i32">, x: Operand<"i32">, offset?: number): Value<"i32">;
}

function atomicRmw<T extends "i32" | "i64">(type: T, code: number) {
  return (address: Operand<"i32">, x: Operand<T>, offset = 0): Value<T> => ({
    type,
    op: memoryOp(0xfe, [code, type === "i32" ? 4 : 8], offset),
    args: [value("i32", address), value(type, x)],
  });
}

export const i32: I32 &
  Ops<typeof I32_UNARY, ["i32"], "i32"> &
  Ops<typeof I32_BINARY, ["i32", "i32"], "i32"> &
  Ops<typeof I32_FROM_F32 & typeof TRUNC_SAT, ["f32"], "i32"> &
  Ops<typeof I32_FROM_I64, ["i64"], "i32"> &
  Loads<typeof I32_LOADS & typeof I32_ATOMIC_LOADS, "i32"> &
  Stores<typeof I32_STORES & typeof I32_ATOMIC_STORES, "i32"> = {
  const: (n) => constant("i32", n),
  ...ops(0, ["i32"], "i32", I32_UNARY),
  ...ops(0, ["i32", "i32"], "i32", I32_BINARY),
  ...ops(0, ["f32"], "i32", I32_FROM_F32),
  ...ops(0, ["i64"], "i32", I32_FROM_I64),
  ...ops(0xfc, ["f32"], "i32", TRUNC_SAT),
  ...loads(0, "i32", I32_LOADS),
  ...stores(0, "i32", I32_STORES),
  ...loads(0xfe, "i32", I32_ATOMIC_LOADS),
  ...stores(0xfe, "i32", I32_ATOMIC_STORES),
  atomicAdd: atomicRmw("i32", 0x1e),
  atomicExchange: atomicRmw("i32", 0x41),
};

// ---- i64 ------------------------------------------------------------------------------------

// biome-ignore format: a table of opcodes
const I64_BINARY = { add: 0x7c, sub: 0x7d, mul: 0x7e, divS: 0x7f, divU: 0x80, remS: 0x81, remU: 0x82, and: 0x83, or: 0x84, xor: 0x85, shl: 0x86, shrS: 0x87, shrU: 0x88 } as const;
// biome-ignore format: a table of opcodes
const I64_COMPARE = { eq: 0x51, ne: 0x52, ltS: 0x53, ltU: 0x54, gtS: 0x55, gtU: 0x56, leS: 0x57, leU: 0x58, geS: 0x59, geU: 0x5a } as const;
// biome-ignore format: a table of opcodes
const I64_FROM_I32 = { extendI32S: 0xac, extendI32U: 0xad } as const;
// biome-ignore format: a table of opcodes
const I64_LOADS = { load: [0x29, 8] } as const;
// biome-ignore format: a table of opcodes
const I64_STORES = { store: [0x37, 8] } as const;
// biome-ignore format: a table of opcodes
const I64_ATOMIC_LOADS = { atomicLoad: [0x11, 8] } as const;
// biome-ignore format: a table of opcodes
const I64_ATOMIC_STORES = { atomicStore: [0x18, 8] } as const;

interface I64 {
  const(n: number | bigint): Value<"i64">;
  atomicAdd(address: Operand<"i32">, x: Operand<"i64">, offset?: number): Value<"i64">;
  /** Stores `replacement` if memory holds `expected`; gives what memory held. */
  atomicCompareExchange(
    address: Operand<"i32">,
    expected: Operand<"i64">,
    replacement: Operand<"i64">,
    offset?: number,
  ): Value<"i64">;
}

export const i64: I64 &
  Ops<typeof I64_BINARY, ["i64", "i64"], "i64"> &
  Ops<typeof I64_COMPARE, ["i64", "i64"], "i32"> &
  Ops<typeof I64_FROM_I32, ["i32"], "i64"> &
  Loads<typeof I64_LOADS & typeof I64_ATOMIC_LOADS, "i64"> &
  Stores<typeof I64_STORES & typeof I64_ATOMIC_STORES, "i64"> = {
  const: (n) => constant("i64", n),
  ...ops(0, ["i64", "i64"], "i64", I64_BINARY),
  ...ops(0, ["i64", "i64"], "i32", I64_COMPARE),
  ...ops(0, ["i32"], "i64", I64_FROM_I32),
  ...loads(0, "i64", I64_LOADS),
  ...stores(0, "i64", I64_STORES),
  ...loads(0xfe, "i64", I64_ATOMIC_LOADS),
  ...stores(0xfe, "i64", I64_ATOMIC_STORES),
  atomicAdd: atomicRmw("i64", 0x1f),
  atomicCompareExchange: (address, expected, replacement, offset = 0) => ({
    type: "i64",
    op: memoryOp(0xfe, [0x49, 8], offset),
    args: [value("i32", address), expected, replacement],
  }),
};

// ---- f32, f64 -------------------------------------------------------------------------------

// biome-ignore format: a table of opcodes
const F32_UNARY = { abs: 0x8b, neg: 0x8c, ceil: 0x8d, floor: 0x8e, trunc: 0x8f, nearest: 0x90, sqrt: 0x91 } as const;
// biome-ignore format: a table of opcodes
const F32_BINARY = { add: 0x92, sub: 0x93, mul: 0x94, div: 0x95, min: 0x96, max: 0x97, copysign: 0x98 } as const;
// biome-ignore format: a table of opcodes
const F32_COMPARE = { eq: 0x5b, ne: 0x5c, lt: 0x5d, gt: 0x5e, le: 0x5f, ge: 0x60 } as const;
// biome-ignore format: a table of opcodes
const F32_FROM_I32 = { convertI32S: 0xb2, convertI32U: 0xb3, reinterpretI32: 0xbe } as const;
// biome-ignore format: a table of opcodes
const F32_FROM_F64 = { demoteF64: 0xb6 } as const;
// biome-ignore format: a table of opcodes
const F32_LOADS = { load: [0x2a, 4] } as const;
// biome-ignore format: a table of opcodes
const F32_STORES = { store: [0x38, 4] } as const;

export const f32: { const(n: number): Value<"f32"> } & Ops<typeof F32_UNARY, ["f32"], "f32"> &
  Ops<typeof F32_BINARY, ["f32", "f32"], "f32"> &
  Ops<typeof F32_COMPARE, ["f32", "f32"], "i32"> &
  Ops<typeof F32_FROM_I32, ["i32"], "f32"> &
  Ops<typeof F32_FROM_F64, ["f64"], "f32"> &
  Loads<typeof F32_LOADS, "f32"> &
  Stores<typeof F32_STORES, "f32"> = {
  const: (n) => constant("f32", n),
  ...ops(0, ["f32"], "f32", F32_UNARY),
  ...ops(0, ["f32", "f32"], "f32", F32_BINARY),
  ...ops(0, ["f32", "f32"], "i32", F32_COMPARE),
  ...ops(0, ["i32"], "f32", F32_FROM_I32),
  ...ops(0, ["f64"], "f32", F32_FROM_F64),
  ...loads(0, "f32", F32_LOADS),
  ...stores(0, "f32", F32_STORES),
};

// biome-ignore format: a table of opcodes
const F64_UNARY = { abs: 0x99, neg: 0x9a, floor: 0x9c, trunc: 0x9d, nearest: 0x9e, sqrt: 0x9f } as const;
// biome-ignore format: a table of opcodes
const F64_BINARY = { add: 0xa0, sub: 0xa1, mul: 0xa2, div: 0xa3, min: 0xa4, max: 0xa5 } as const;
// biome-ignore format: a table of opcodes
const F64_FROM_F32 = { promoteF32: 0xbb } as const;

export const f64: { const(n: number): Value<"f64"> } & Ops<typeof F64_UNARY, ["f64"], "f64"> &
  Ops<typeof F64_BINARY, ["f64", "f64"], "f64"> &
  Ops<typeof F64_FROM_F32, ["f32"], "f64"> = {
  const: (n) => constant("f64", n),
  ...ops(0, ["f64"], "f64", F64_UNARY),
  ...ops(0, ["f64", "f64"], "f64", F64_BINARY),
  ...ops(0, ["f32"], "f64", F64_FROM_F32),
};

// ---- SIMD -----------------------------------------------------------------------------------

// biome-ignore format: a table of opcodes
const V128_LOADS = {
  load: [0, 16], load8x8S: [1, 8], load8x8U: [2, 8], load16x4S: [3, 8], load16x4U: [4, 8], load32x2S: [5, 8], load32x2U: [6, 8],
  load8Splat: [7, 1], load16Splat: [8, 2], load32Splat: [9, 4], load64Splat: [10, 8], load32Zero: [92, 4], load64Zero: [93, 8],
} as const;
// biome-ignore format: a table of opcodes
const V128_STORES = { store: [11, 16] } as const;
// biome-ignore format: a table of opcodes
const V128_LANE_LOADS = { load8Lane: [84, 1], load16Lane: [85, 2], load32Lane: [86, 4], load64Lane: [87, 8] } as const;
// biome-ignore format: a table of opcodes
const V128_LANE_STORES = { store8Lane: [88, 1], store16Lane: [89, 2], store32Lane: [90, 4], store64Lane: [91, 8] } as const;
// biome-ignore format: a table of opcodes
const V128_UNARY = { not: 77 } as const;
// biome-ignore format: a table of opcodes
const V128_BINARY = { and: 78, andnot: 79, or: 80, xor: 81 } as const;
// biome-ignore format: a table of opcodes
const V128_TERNARY = { bitselect: 82 } as const; // (a, b, mask): a where mask has ones
// biome-ignore format: a table of opcodes
const V128_TESTS = { anyTrue: 83 } as const;

interface V128 {
  /** Sixteen bytes. */
  const(bytes: ArrayLike<number>): Value<"v128">;
}

type LaneLoads<Table> = {
  readonly [K in keyof Table]: (
    address: Operand<"i32">,
    into: Value<"v128">,
    lane: number,
    offset?: number,
  ) => Value<"v128">;
};
type LaneStores<Table> = {
  readonly [K in keyof Table]: (
    address: Operand<"i32">,
    from: Value<"v128">,
    lane: number,
    offset?: number,
  ) => Value<"void">;
};

function laneOps<Table extends MemoryTable, Out extends "v128" | "void">(out: Out, table: Table) {
  const entries = Object.entries(table).map(([name, entry]) => [
    name,
    (address: Operand<"i32">, vector: Value<"v128">, lane: number, offset = 0) => ({
      type: out,
      op: [...memoryOp(0xfd, entry, offset), lane],
      args: [value("i32", address), vector],
    }),
  ]);
  return Object.fromEntries(entries);
}

export const v128: V128 &
  Loads<typeof V128_LOADS, "v128"> &
  Stores<typeof V128_STORES, "v128"> &
  LaneLoads<typeof V128_LANE_LOADS> &
  LaneStores<typeof V128_LANE_STORES> &
  Ops<typeof V128_UNARY, ["v128"], "v128"> &
  Ops<typeof V128_BINARY, ["v128", "v128"], "v128"> &
  Ops<typeof V128_TERNARY, ["v128", "v128", "v128"], "v128"> &
  Ops<typeof V128_TESTS, ["v128"], "i32"> = {
  const: (bytes) => ({ type: "v128", op: [0xfd, 12, ...Array.from(bytes)], args: [] }),
  ...loads(0xfd, "v128", V128_LOADS),
  ...stores(0xfd, "v128", V128_STORES),
  ...(laneOps("v128", V128_LANE_LOADS) as LaneLoads<typeof V128_LANE_LOADS>),
  ...(laneOps("void", V128_LANE_STORES) as LaneStores<typeof V128_LANE_STORES>),
  ...ops(0xfd, ["v128"], "v128", V128_UNARY),
  ...ops(0xfd, ["v128", "v128"], "v128", V128_BINARY),
  ...ops(0xfd, ["v128", "v128", "v128"], "v128", V128_TERNARY),
  ...ops(0xfd, ["v128"], "i32", V128_TESTS),
};

interface Lanes<Scalar extends ValType> {
  splat(x: Operand<Scalar>): Value<"v128">;
  replaceLane(vector: Value<"v128">, lane: number, x: Operand<Scalar>): Value<"v128">;
}
interface Extract<Scalar extends ValType> {
  extractLane(vector: Value<"v128">, lane: number): Value<Scalar>;
}
interface ExtractSigned {
  extractLaneS(vector: Value<"v128">, lane: number): Value<"i32">;
  extractLaneU(vector: Value<"v128">, lane: number): Value<"i32">;
}

function lanes<Scalar extends "i32" | "i64" | "f32" | "f64">(
  scalar: Scalar,
  splat: number,
  replace: number,
) {
  return {
    splat: (x: Operand<Scalar>): Value<"v128"> => ({
      type: "v128",
      op: [0xfd, splat],
      args: [value(scalar, x)],
    }),
    replaceLane: (vector: Value<"v128">, lane: number, x: Operand<Scalar>): Value<"v128"> => ({
      type: "v128",
      op: [0xfd, replace, lane],
      args: [vector, value(scalar, x)],
    }),
  };
}
const extract =
  <Scalar extends ValType>(scalar: Scalar, code: number) =>
  (vector: Value<"v128">, lane: number): Value<Scalar> => ({
    type: scalar,
    op: [0xfd, code, lane],
    args: [vector],
  });

type V1<Table> = Ops<Table, ["v128"], "v128">;
type V2<Table> = Ops<Table, ["v128", "v128"], "v128">;
type V3<Table> = Ops<Table, ["v128", "v128", "v128"], "v128">;
type Shifts<Table> = Ops<Table, ["v128", "i32"], "v128">;
type Tests<Table> = Ops<Table, ["v128"], "i32">;
const v1 = <T extends object>(table: T): V1<T> => ops(0xfd, ["v128"], "v128", table);
const v2 = <T extends object>(table: T): V2<T> => ops(0xfd, ["v128", "v128"], "v128", table);
const v3 = <T extends object>(table: T): V3<T> =>
  ops(0xfd, ["v128", "v128", "v128"], "v128", table);
const shifts = <T extends object>(table: T): Shifts<T> => ops(0xfd, ["v128", "i32"], "v128", table);
const tests = <T extends object>(table: T): Tests<T> => ops(0xfd, ["v128"], "i32", table);

// biome-ignore format: a table of opcodes
const I8X16_1 = { abs: 96, neg: 97, popcnt: 98 } as const;
// biome-ignore format: a table of opcodes
const I8X16_2 = {
  swizzle: 14, relaxedSwizzle: 0x100, eq: 35, ne: 36, ltS: 37, ltU: 38, gtS: 39, gtU: 40, leS: 41, leU: 42, geS: 43, geU: 44,
  narrowI16x8S: 101, narrowI16x8U: 102, add: 110, addSatS: 111, addSatU: 112, sub: 113, subSatS: 114, subSatU: 115,
  minS: 118, minU: 119, maxS: 120, maxU: 121, avgrU: 123,
} as const;
// biome-ignore format: a table of opcodes
const I8X16_3 = { relaxedLaneselect: 0x109 } as const;
// biome-ignore format: a table of opcodes
const I8X16_SHIFTS = { shl: 107, shrS: 108, shrU: 109 } as const;
// biome-ignore format: a table of opcodes
const I8X16_TESTS = { allTrue: 99, bitmask: 100 } as const;

export const i8x16: Lanes<"i32"> &
  ExtractSigned & {
    /** Bytes of a (0–15) and b (16–31) by constant number. */
    shuffle(a: Value<"v128">, b: Value<"v128">, pick: readonly number[]): Value<"v128">;
  } & V1<typeof I8X16_1> &
  V2<typeof I8X16_2> &
  V3<typeof I8X16_3> &
  Shifts<typeof I8X16_SHIFTS> &
  Tests<typeof I8X16_TESTS> = {
  ...lanes("i32", 15, 23),
  extractLaneS: extract("i32", 21),
  extractLaneU: extract("i32", 22),
  shuffle: (a, b, pick) => ({ type: "v128", op: [0xfd, 13, ...pick], args: [a, b] }),
  ...v1(I8X16_1),
  ...v2(I8X16_2),
  ...v3(I8X16_3),
  ...shifts(I8X16_SHIFTS),
  ...tests(I8X16_TESTS),
};

// biome-ignore format: a table of opcodes
const I16X8_1 = {
  extaddPairwiseI8x16S: 124, extaddPairwiseI8x16U: 125, abs: 128, neg: 129,
  extendLowI8x16S: 135, extendHighI8x16S: 136, extendLowI8x16U: 137, extendHighI8x16U: 138,
} as const;
// biome-ignore format: a table of opcodes
const I16X8_2 = {
  eq: 45, ne: 46, ltS: 47, ltU: 48, gtS: 49, gtU: 50, leS: 51, leU: 52, geS: 53, geU: 54,
  narrowI32x4S: 133, narrowI32x4U: 134, add: 142, addSatS: 143, addSatU: 144, sub: 145, subSatS: 146, subSatU: 147,
  mul: 149, minS: 150, minU: 151, maxS: 152, maxU: 153,
  extmulLowI8x16S: 156, extmulHighI8x16S: 157, extmulLowI8x16U: 158, extmulHighI8x16U: 159,
  /** Signed bytes times 7-bit bytes, pairs added. */
  relaxedDotI8x16I7x16S: 0x112,
} as const;
// biome-ignore format: a table of opcodes
const I16X8_SHIFTS = { shl: 139, shrS: 140, shrU: 141 } as const;
// biome-ignore format: a table of opcodes
const I16X8_TESTS = { allTrue: 131, bitmask: 132 } as const;

export const i16x8: Lanes<"i32"> &
  ExtractSigned &
  V1<typeof I16X8_1> &
  V2<typeof I16X8_2> &
  Shifts<typeof I16X8_SHIFTS> &
  Tests<typeof I16X8_TESTS> = {
  ...lanes("i32", 16, 26),
  extractLaneS: extract("i32", 24),
  extractLaneU: extract("i32", 25),
  ...v1(I16X8_1),
  ...v2(I16X8_2),
  ...shifts(I16X8_SHIFTS),
  ...tests(I16X8_TESTS),
};

// biome-ignore format: a table of opcodes
const I32X4_1 = {
  extaddPairwiseI16x8S: 126, extaddPairwiseI16x8U: 127, abs: 160, neg: 161,
  extendLowI16x8S: 167, extendHighI16x8S: 168, extendLowI16x8U: 169, extendHighI16x8U: 170,
  truncSatF32x4S: 248, truncSatF32x4U: 249, relaxedTruncF32x4S: 0x101, relaxedTruncF32x4U: 0x102,
} as const;
// biome-ignore format: a table of opcodes
const I32X4_2 = {
  eq: 55, ne: 56, ltS: 57, ltU: 58, gtS: 59, gtU: 60, leS: 61, leU: 62, geS: 63, geU: 64,
  add: 174, sub: 177, mul: 181, minS: 182, minU: 183, maxS: 184, maxU: 185, dotI16x8S: 186,
  extmulLowI16x8S: 188, extmulHighI16x8S: 189, extmulLowI16x8U: 190, extmulHighI16x8U: 191,
} as const;
// biome-ignore format: a table of opcodes
const I32X4_3 = {
  relaxedLaneselect: 0x10b,
  /** Signed bytes times 7-bit bytes, fours added, plus the third operand. */
  relaxedDotI8x16I7x16AddS: 0x113,
} as const;
// biome-ignore format: a table of opcodes
const I32X4_SHIFTS = { shl: 171, shrS: 172, shrU: 173 } as const;
// biome-ignore format: a table of opcodes
const I32X4_TESTS = { allTrue: 163, bitmask: 164 } as const;

export const i32x4: Lanes<"i32"> &
  Extract<"i32"> & { const(...lanes: number[]): Value<"v128"> } & V1<typeof I32X4_1> &
  V2<typeof I32X4_2> &
  V3<typeof I32X4_3> &
  Shifts<typeof I32X4_SHIFTS> &
  Tests<typeof I32X4_TESTS> = {
  /** Four lanes, or one for all. */
  const: (...lanes) =>
    v128.const(
      new Uint8Array(
        Int32Array.from({ length: 4 }, (_, i) => lanes[i % lanes.length] as number).buffer,
      ),
    ),
  ...lanes("i32", 17, 28),
  extractLane: extract("i32", 27),
  ...v1(I32X4_1),
  ...v2(I32X4_2),
  ...v3(I32X4_3),
  ...shifts(I32X4_SHIFTS),
  ...tests(I32X4_TESTS),
};

// biome-ignore format: a table of opcodes
const I64X2_1 = { extendLowI32x4S: 199, extendHighI32x4S: 200, extendLowI32x4U: 201, extendHighI32x4U: 202 } as const;
// biome-ignore format: a table of opcodes
const I64X2_2 = {
  add: 206, sub: 209, mul: 213, eq: 214, ne: 215, ltS: 216, gtS: 217, leS: 218, geS: 219,
  extmulLowI32x4S: 220, extmulHighI32x4S: 221, extmulLowI32x4U: 222, extmulHighI32x4U: 223,
} as const;
// biome-ignore format: a table of opcodes
const I64X2_SHIFTS = { shl: 203, shrS: 204, shrU: 205 } as const;

export const i64x2: Lanes<"i64"> &
  Extract<"i64"> &
  V1<typeof I64X2_1> &
  V2<typeof I64X2_2> &
  Shifts<typeof I64X2_SHIFTS> = {
  ...lanes("i64", 18, 30),
  extractLane: extract("i64", 29),
  ...v1(I64X2_1),
  ...v2(I64X2_2),
  ...shifts(I64X2_SHIFTS),
};

// biome-ignore format: a table of opcodes
const F32X4_1 = {
  ceil: 103, floor: 104, trunc: 105, nearest: 106, abs: 224, neg: 225, sqrt: 227,
  convertI32x4S: 250, convertI32x4U: 251, demoteF64x2Zero: 94,
} as const;
// biome-ignore format: a table of opcodes
const F32X4_2 = {
  eq: 65, ne: 66, lt: 67, gt: 68, le: 69, ge: 70, add: 228, sub: 229, mul: 230, div: 231,
  min: 232, max: 233, pmin: 234, pmax: 235, relaxedMin: 0x10d, relaxedMax: 0x10e,
} as const;
/** a·b + c and −a·b + c, fused where the machine does. */
// biome-ignore format: a table of opcodes
const F32X4_3 = { relaxedMadd: 0x105, relaxedNmadd: 0x106 } as const;

export const f32x4: Lanes<"f32"> &
  Extract<"f32"> & { const(...lanes: number[]): Value<"v128"> } & V1<typeof F32X4_1> &
  V2<typeof F32X4_2> &
  V3<typeof F32X4_3> = {
  /** Four lanes, or one for all. */
  const: (...lanes) =>
    v128.const(
      new Uint8Array(
        Float32Array.from({ length: 4 }, (_, i) => lanes[i % lanes.length] as number).buffer,
      ),
    ),
  ...lanes("f32", 19, 32),
  extractLane: extract("f32", 31),
  ...v1(F32X4_1),
  ...v2(F32X4_2),
  ...v3(F32X4_3),
};

// biome-ignore format: a table of opcodes
const F64X2_1 = { floor: 117, trunc: 122, nearest: 148, abs: 236, neg: 237, sqrt: 239, promoteLowF32x4: 95, convertLowI32x4S: 254, convertLowI32x4U: 255 } as const;
// biome-ignore format: a table of opcodes
const F64X2_2 = { eq: 71, ne: 72, lt: 73, gt: 74, le: 75, ge: 76, add: 240, sub: 241, mul: 242, div: 243, min: 244, max: 245 } as const;

export const f64x2: Lanes<"f64"> &
  Extract<"f64"> & { const(n: number): Value<"v128"> } & V1<typeof F64X2_1> &
  V2<typeof F64X2_2> = {
  /** Both lanes. */
  const: (n) => v128.const(new Uint8Array(Float64Array.of(n, n).buffer)),
  ...lanes("f64", 20, 34),
  extractLane: extract("f64", 33),
  ...v1(F64X2_1),
  ...v2(F64X2_2),
};

// ---- memory and synchronisation ---------------------------------------------------------------

/** Copies bytes; source and destination may overlap. */
export function memoryCopy(
  to: Operand<"i32">,
  from: Operand<"i32">,
  bytes: Operand<"i32">,
): Value<"void"> {
  return {
    type: "void",
    op: [0xfc, 10, 0, 0],
    args: [value("i32", to), value("i32", from), value("i32", bytes)],
  };
}

export function memoryFill(
  to: Operand<"i32">,
  byte: Operand<"i32">,
  bytes: Operand<"i32">,
): Value<"void"> {
  return {
    type: "void",
    op: [0xfc, 11, 0],
    args: [value("i32", to), value("i32", byte), value("i32", bytes)],
  };
}

/** Wakes up to `count` threads that wait at the address; gives how many. */
export function atomicNotify(address: Operand<"i32">, count: Operand<"i32">): Value<"i32"> {
  return {
    type: "i32",
    op: memoryOp(0xfe, [0, 4], 0),
    args: [value("i32", address), value("i32", count)],
  };
}

/** Sleeps while memory holds `expected`. 0: woken, 1: it held something else, 2: time out (ns, −1 never). */
export function atomicWait(
  address: Operand<"i32">,
  expected: Operand<"i32">,
  timeout: Value<"i64">,
): Value<"i32"> {
  return {
    type: "i32",
    op: memoryOp(0xfe, [1, 4], 0),
    args: [value("i32", address), value("i32", expected), timeout],
  };
}

/** condition ≠ 0 ? a : b, both evaluated. */
export function select<T extends ValType>(
  a: Value<T>,
  b: Value<T>,
  condition: Operand<"i32">,
): Value<T> {
  const op = a.type === "v128" ? [0x1c, 1, 0x7b] : [0x1b];
  return { type: a.type, op, args: [a, b, value("i32", condition)] };
}
