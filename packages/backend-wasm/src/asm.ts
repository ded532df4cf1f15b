/**
 * A small typed WebAssembly assembler. Instructions are expressions (instructions.ts); a `Func`
 * strings them together with locals and structured control flow; a `Module` is a set of functions
 * over one imported memory.
 *
 *     const m = new Module({ memory });
 *     m.func("sum", ["i32", "i32"], "f32", (f, p, n) => {
 *       const i = f.local("i32");
 *       const sum = f.local("f32");
 *       f.for(i, 0, n, 1, () => f.set(sum, f32.add(sum, f32.load(i32.add(p, i32.shl(i, 2))))));
 *       return sum;
 *     });
 *     const bytes = m.bytes();
 *
 * Addresses are unsigned 32-bit numbers that may exceed 2^31: compare them with `ltU` and friends,
 * or with `ne`. Offsets of loads and stores are not taken modulo 2^32, so keep them ≥ 0 and small.
 *
 * How a kernel is written and registered: see kernel.ts.
 */
import {
  i32,
  i32x4,
  leb,
  type Operand,
  type ValType,
  type Value,
  v128,
  value,
} from "./instructions.ts";

export * from "./instructions.ts";

const TYPE_CODES = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c, v128: 0x7b } as const;
const FUNCREF = 0x70;

/** A variable of a function. As an expression it is its value. */
export interface Local<T extends ValType = ValType> extends Value<T> {
  readonly local: number;
}

/** A function that other functions may call. */
export interface Callable<Out extends ValType | "void" = ValType | "void"> {
  readonly index: number;
  readonly result: Out;
}

/** Target of a branch: the end of a block, the start of a loop. */
export interface Label {
  readonly depth: number;
}

type Params<In extends readonly ValType[]> = { [I in keyof In]: Local<In[I]> };

/**
 * The body of one function.
 *
 * Vector constants become variables that are set at the start of the function, in a way that the
 * engine's compiler cannot see through (or-ed with a zero that it takes for unknown): V8 writes a
 * constant out anew at every use, in three instructions, which made an `exp` loop 2.5 times slower.
 */
export class Func {
  readonly code: number[] = [];
  readonly #prologue: number[] = [];
  readonly #constants = new Map<string, Local<"v128">>();
  readonly #locals: ValType[];
  readonly #params: number;
  #depth = 0;

  constructor(params: readonly ValType[]) {
    this.#locals = [...params];
    this.#params = params.length;
  }

  /** A new variable: zero at the start of the function, or set to `initial` here. */
  local<T extends ValType>(type: T, initial?: Operand<T>): Local<T> {
    const index = this.#locals.push(type) - 1;
    const local = localAt(type, index);
    if (initial !== undefined) this.set(local, initial);
    return local;
  }

  /** Computes an expression here, once; the result may be used any number of times. */
  keep<T extends ValType>(x: Value<T>): Local<T> {
    return this.local(x.type, x as Operand<T>);
  }

  set<T extends ValType>(local: Local<T>, x: Operand<T>): void {
    this.#emit(value(local.type, x));
    this.code.push(0x21, ...leb(local.local));
  }

  /** local += x, for i32. */
  inc(local: Local<"i32">, x: Operand<"i32">): void {
    this.set(local, i32.add(local, x));
  }

  /** Runs an instruction for its effect: a store, a call, an atomic whose result is not wanted. */
  do(...effects: readonly Value[]): void {
    for (const effect of effects) {
      this.#emit(effect);
      if (effect.type !== "void") this.code.push(0x1a);
    }
  }

  /** Branching to the label leaves the block. */
  block(body: (end: Label) => void): void {
    this.#structure(0x02, body);
  }

  /** Branching to the label starts over; falling off the end leaves the loop. */
  loop(body: (again: Label) => void): void {
    this.#structure(0x03, body);
  }

  br(label: Label): void {
    this.code.push(0x0c, ...leb(this.#depth - label.depth));
  }

  brIf(label: Label, condition: Operand<"i32">): void {
    this.#emit(value("i32", condition));
    this.code.push(0x0d, ...leb(this.#depth - label.depth));
  }

  if(condition: Operand<"i32">, then: () => void, otherwise?: () => void): void {
    this.#emit(value("i32", condition));
    this.#structure(0x04, () => {
      then();
      if (otherwise) {
        this.code.push(0x05);
        otherwise();
      }
    });
  }

  /** while (condition) body; the condition is written out twice. */
  while(condition: Value<"i32">, body: () => void): void {
    this.if(condition, () =>
      this.loop((again) => {
        body();
        this.brIf(again, condition);
      }),
    );
  }

  /**
   * for (i = lo; i < hi; i += step) body, signed. Where lo < hi is known (both numbers), the first
   * test is left out.
   */
  for(
    i: Local<"i32">,
    lo: Operand<"i32">,
    hi: Operand<"i32">,
    step: number,
    body: () => void,
  ): void {
    if (typeof lo === "number" && typeof hi === "number") {
      if (lo >= hi) return;
      this.set(i, lo);
      if (lo + step >= hi) {
        body();
        this.inc(i, step);
      } else {
        this.loop((again) => {
          body();
          this.inc(i, step);
          this.brIf(again, i32.ltS(i, hi));
        });
      }
      return;
    }
    this.set(i, lo);
    this.while(i32.ltS(i, hi), () => {
      body();
      this.inc(i, step);
    });
  }

  /** Leaves the function, with its result if it has one. */
  return(result?: Value<ValType>): void {
    if (result) this.#emit(result);
    this.code.push(0x0f);
  }

  /** Stops with a trap. */
  unreachable(): void {
    this.code.push(0x00);
  }

  /** Leaves a value on the stack: the last thing in a function with a result. */
  result(x: Value<ValType>): void {
    this.#emit(x);
  }

  /** The function as it stands in a code section. */
  body(): number[] {
    const groups: number[][] = [];
    let count = 0;
    for (let i = this.#params; i < this.#locals.length; ) {
      const type = this.#locals[i] as ValType;
      let run = 1;
      while (this.#locals[i + run] === type) run++;
      groups.push([...leb(run), TYPE_CODES[type]]);
      count++;
      i += run;
    }
    return [...leb(count), ...groups.flat(), ...this.#prologue, ...this.code, 0x0b];
  }

  #structure(opcode: number, body: (label: Label) => void): void {
    this.code.push(opcode, 0x40);
    this.#depth++;
    body({ depth: this.#depth });
    this.#depth--;
    this.code.push(0x0b);
  }

  #emit(x: Value): void {
    const { op } = this.#constant(x);
    for (const arg of x.args) this.#emit(arg);
    for (const byte of op) this.code.push(byte);
  }

  /** The variable of a vector constant; other expressions, and zeros and ones, are themselves. */
  #constant(x: Value): Value {
    const isConstant = x.op[0] === 0xfd && x.op[1] === 0x0c;
    if (!isConstant || this.#locals[0] !== "i32") return x;
    const [first, ...rest] = x.op.slice(2);
    if ((first === 0 || first === 0xff) && rest.every((byte) => byte === first)) return x;
    const known = this.#constants.get(x.op.join());
    if (known) return known;
    const zero = this.#constants.get("zero") ?? this.#early("zero", this.#unknownZero());
    return this.#early(x.op.join(), v128.or(x as Value<"v128">, zero));
  }

  /** Trailing zero bits number 32 at most, so bit 6 and above are not set. */
  #unknownZero(): Value<"v128"> {
    return i32x4.splat(i32.shrU(i32.ctz(localAt("i32", 0)), 6));
  }

  /** A variable set at the start of the function. */
  #early(key: string, x: Value<"v128">): Local<"v128"> {
    const local = this.local("v128");
    const write = (y: Value): void => {
      y.args.forEach(write);
      this.#prologue.push(...y.op);
    };
    write(x);
    this.#prologue.push(0x21, ...leb(local.local));
    this.#constants.set(key, local);
    return local;
  }
}

function localAt<T extends ValType>(type: T, index: number): Local<T> {
  return { type, op: [0x20, ...leb(index)], args: [], local: index };
}

/** Calls a function of the same module. */
export function call<Out extends ValType | "void">(
  callee: Callable<Out>,
  ...args: readonly Value<ValType>[]
): Value<Out> {
  return { type: callee.result, op: [0x10, ...leb(callee.index)], args };
}

export interface ModuleImports {
  /** The memory, imported as "env" "memory"; sizes in pages of 64 KiB. */
  readonly memory: { readonly initial: number; readonly maximum: number; readonly shared: boolean };
  /** Imports the function table "env" "table", and puts every function of the module at base + n. */
  readonly table?: { readonly base: number };
}

/** A module under construction. */
export class Module {
  readonly #imports: ModuleImports;
  readonly #types: string[] = [];
  readonly #typeBytes: number[][] = [];
  readonly #functions: { name: string; type: number; body: Func }[] = [];

  constructor(imports: ModuleImports) {
    this.#imports = imports;
  }

  /** Number of functions so far. */
  get size(): number {
    return this.#functions.length;
  }

  /** Adds an exported function. Its body gets the builder and the parameters, and gives the result. */
  func<const In extends readonly ValType[], Out extends ValType | "void">(
    name: string,
    params: In,
    result: Out,
    body: (f: Func, ...params: Params<In>) => Out extends ValType ? Value<Out> : void,
  ): Callable<Out> {
    const index = this.#functions.length;
    const func = new Func(params);
    this.#functions.push({ name, type: this.type(params, result), body: func });
    const out = body(func, ...(params.map((type, i) => localAt(type, i)) as Params<In>));
    if (out) func.result(out as Value<ValType>);
    return { index, result };
  }

  /** Number of a function type, for `callIndirect`. */
  type(params: readonly ValType[], result: ValType | "void"): number {
    const results = result === "void" ? [] : [result];
    const vector = (types: readonly ValType[]) => [
      ...leb(types.length),
      ...types.map((t) => TYPE_CODES[t]),
    ];
    const bytes = [0x60, ...vector(params), ...vector(results)];
    const known = this.#types.indexOf(bytes.join());
    if (known >= 0) return known;
    this.#typeBytes.push(bytes);
    return this.#types.push(bytes.join()) - 1;
  }

  /** Calls the function at a place of the imported table. */
  callIndirect<Out extends ValType | "void">(
    params: readonly ValType[],
    result: Out,
    place: Operand<"i32">,
    ...args: readonly Value<ValType>[]
  ): Value<Out> {
    const op = [0x11, ...leb(this.type(params, result)), 0];
    return { type: result, op, args: [...args, value("i32", place)] };
  }

  /** The binary module. */
  bytes(): Uint8Array<ArrayBuffer> {
    const { memory, table } = this.#imports;
    const imports = [
      [
        ...text("env"),
        ...text("memory"),
        0x02,
        memory.shared ? 3 : 1,
        ...leb(memory.initial),
        ...leb(memory.maximum),
      ],
    ];
    const count = this.#functions.length;
    if (table)
      imports.push([
        ...text("env"),
        ...text("table"),
        0x01,
        FUNCREF,
        0,
        ...leb(table.base + count),
      ]);
    const exports = this.#functions.map(({ name }, i) => [...text(name), 0, ...leb(i)]);
    const elements = table
      ? [
          [
            0,
            ...i32.const(table.base).op,
            0x0b,
            ...leb(count),
            ...this.#functions.flatMap((_, i) => leb(i)),
          ],
        ]
      : [];
    const bodies = this.#functions.map(({ body }) => {
      const bytes = body.body();
      return leb(bytes.length).concat(bytes);
    });
    return Uint8Array.from(
      [
        [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
        section(1, this.#typeBytes),
        section(2, imports),
        section(
          3,
          this.#functions.map(({ type }) => leb(type)),
        ),
        section(7, exports),
        section(9, elements),
        section(10, bodies),
      ].flat(),
    );
  }
}

function section(id: number, items: readonly number[][]): number[] {
  if (items.length === 0) return [];
  const content = leb(items.length).concat(items.flat());
  return [id, ...leb(content.length)].concat(content);
}

function text(s: string): number[] {
  const bytes = new TextEncoder().encode(s);
  return [...leb(bytes.length), ...bytes];
}
