/** Dense matrix products by cuBLASLt, which the driver API's stream and graphs accept as they are. */
import { type Bindings, CudaError, type Device, type PreparedGemm, resolve } from "./device.ts";
import { type NativeFunction, NativeLibrary } from "./ffi.ts";
import type { Gemm, GemmOperand } from "./kernel.ts";
import { CUBLASLT, findLibrary } from "./libraries.ts";

/** Enumerators of cublasLt.h and library_types.h that are used. */
const TYPE = { f32: 0, f16: 2, i8: 3, i32: 10, bf16: 14, f8e4m3: 28, f8e5m2: 29 } as const;
const COMPUTE_F32 = 68;
const COMPUTE_I32 = 72;
const DESC = {
  transA: 3,
  transB: 4,
  scaleA: 17,
  scaleB: 18,
  scaleModeA: 31,
  scaleModeB: 32,
} as const;
const LAYOUT = { batchCount: 5, batchStride: 6 } as const;
const PREFERENCE = { workspaceBytes: 1, reductionMask: 3, alignment: [5, 6, 7, 8] } as const;
/** No reduction, or one through the workspace: in-place reduction adds in the order of arrival. */
const ORDERED_REDUCTIONS = 2 | 4;
const SCALE_MODE = { vec128: 4, blk128: 5 } as const;
const WORKSPACE_BYTES = 64 << 20;
const ALGO_BYTES = 64;
const RESULT_BYTES = 96;

const SIGNATURES = {
  cublasLtCreate: "int cublasLtCreate(_Out_ uintptr_t*)",
  cublasLtDestroy: "int cublasLtDestroy(uintptr_t)",
  cublasLtMatmulDescCreate: "int cublasLtMatmulDescCreate(_Out_ uintptr_t*, int, int)",
  cublasLtMatmulDescDestroy: "int cublasLtMatmulDescDestroy(uintptr_t)",
  cublasLtMatmulDescSetAttribute:
    "int cublasLtMatmulDescSetAttribute(uintptr_t, int, void*, size_t)",
  cublasLtMatrixLayoutCreate:
    "int cublasLtMatrixLayoutCreate(_Out_ uintptr_t*, int, uint64_t, uint64_t, int64_t)",
  cublasLtMatrixLayoutDestroy: "int cublasLtMatrixLayoutDestroy(uintptr_t)",
  cublasLtMatrixLayoutSetAttribute:
    "int cublasLtMatrixLayoutSetAttribute(uintptr_t, int, void*, size_t)",
  cublasLtMatmulPreferenceCreate: "int cublasLtMatmulPreferenceCreate(_Out_ uintptr_t*)",
  cublasLtMatmulPreferenceDestroy: "int cublasLtMatmulPreferenceDestroy(uintptr_t)",
  cublasLtMatmulPreferenceSetAttribute:
    "int cublasLtMatmulPreferenceSetAttribute(uintptr_t, int, void*, size_t)",
  cublasLtMatmulAlgoGetHeuristic:
    "int cublasLtMatmulAlgoGetHeuristic(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, int, void*, _Out_ int*)",
  cublasLtMatmul:
    "int cublasLtMatmul(uintptr_t, uintptr_t, void*, uint64_t, uintptr_t, uint64_t, uintptr_t, void*, uint64_t, uintptr_t, uint64_t, uintptr_t, void*, uint64_t, size_t, uintptr_t)",
} as const;

export class CublasLt {
  readonly #call: Record<keyof typeof SIGNATURES, NativeFunction>;
  readonly #device: Device;
  readonly #stream: number;
  readonly #handle: number;
  readonly #workspace: number;
  /** Algorithms chosen so far, by problem. */
  readonly #algorithms = new Map<string, Uint8Array>();

  constructor(device: Device, stream: number) {
    const library = new NativeLibrary(findLibrary(CUBLASLT), CUBLASLT.install);
    const call: Record<string, NativeFunction> = {};
    for (const [name, signature] of Object.entries(SIGNATURES))
      call[name] = library.function(signature);
    this.#call = call as Record<keyof typeof SIGNATURES, NativeFunction>;
    this.#device = device;
    this.#stream = stream;
    this.#handle = this.#out((out) => this.#call.cublasLtCreate(out), "cublasLtCreate");
    const workspace = device.allocate(WORKSPACE_BYTES);
    if (workspace === undefined) throw new CudaError("no memory for cuBLASLt's 64 MiB workspace");
    this.#workspace = workspace;
  }

  /**
   * Our matrices are row-major and the library's column-major, so it computes Dᵀ = Bᵀ Aᵀ: our `b` is
   * its A, our `a` its B, and a row-major matrix is the transpose of a column-major one.
   */
  prepare(gemm: Gemm): PreparedGemm {
    const call = this.#call;
    const { a, b, c = gemm.d, d } = gemm;
    const integer = d.dtype === "i32";
    const desc = this.#out(
      (out) =>
        integer
          ? call.cublasLtMatmulDescCreate(out, COMPUTE_I32, TYPE.i32)
          : call.cublasLtMatmulDescCreate(out, COMPUTE_F32, TYPE.f32),
      "cublasLtMatmulDescCreate",
    );
    const set = (attribute: number, value: Uint8Array) =>
      this.#check(
        call.cublasLtMatmulDescSetAttribute(desc, attribute, value, value.length),
        `cublasLtMatmulDescSetAttribute(${attribute})`,
      );
    set(DESC.transA, int32(b.transposed ? 1 : 0));
    set(DESC.transB, int32(a.transposed ? 1 : 0));
    // No algorithm is found for scales without an address; the true one is known only in a run.
    const anywhere = uint64(this.#workspace);
    if (b.scale) {
      set(DESC.scaleModeA, int32(SCALE_MODE[b.scale.mode]));
      set(DESC.scaleA, anywhere);
    }
    if (a.scale) {
      set(DESC.scaleModeB, int32(SCALE_MODE[a.scale.mode]));
      set(DESC.scaleB, anywhere);
    }
    const layouts = [
      this.#layout(b, gemm.n, gemm.k, gemm.batch),
      this.#layout(a, gemm.k, gemm.m, gemm.batch),
      this.#layout(c, gemm.n, gemm.m, gemm.batch),
      this.#layout(d, gemm.n, gemm.m, gemm.batch),
    ] as const;
    const algorithm = this.#choose(gemm, desc, layouts);
    const one = integer ? int32(1) : float32(1);
    const beta = gemm.c === undefined ? int32(0) : one;
    return {
      run: (bindings: Bindings) => {
        if (b.scale) set(DESC.scaleA, uint64(resolve(b.scale.at, bindings)));
        if (a.scale) set(DESC.scaleB, uint64(resolve(a.scale.at, bindings)));
        const out = resolve(d.at, bindings);
        this.#check(
          call.cublasLtMatmul(
            this.#handle,
            desc,
            one,
            resolve(b.at, bindings),
            layouts[0],
            resolve(a.at, bindings),
            layouts[1],
            beta,
            resolve(c.at, bindings),
            layouts[2],
            out,
            layouts[3],
            algorithm,
            this.#workspace,
            WORKSPACE_BYTES,
            this.#stream,
          ),
          `cublasLtMatmul of ${describe(gemm)}`,
        );
      },
      dispose: () => {
        call.cublasLtMatmulDescDestroy(desc);
        for (const layout of layouts) call.cublasLtMatrixLayoutDestroy(layout);
      },
    };
  }

  dispose(): void {
    this.#call.cublasLtDestroy(this.#handle);
    this.#device.release(this.#workspace);
  }

  /** A row-major [.., width] operand ("n") is column-major with `width` rows; "t" the other way. */
  #layout(operand: GemmOperand, rows: number, columns: number, batch: number): number {
    const [r, c] = operand.transposed ? [columns, rows] : [rows, columns];
    const type = TYPE[operand.dtype as keyof typeof TYPE];
    const layout = this.#out(
      (out) => this.#call.cublasLtMatrixLayoutCreate(out, type, r, c, operand.leading),
      "cublasLtMatrixLayoutCreate",
    );
    if (batch > 1) {
      const set = (attribute: number, value: Uint8Array) =>
        this.#check(
          this.#call.cublasLtMatrixLayoutSetAttribute(layout, attribute, value, value.length),
          "cublasLtMatrixLayoutSetAttribute",
        );
      set(LAYOUT.batchCount, int32(batch));
      set(LAYOUT.batchStride, uint64(operand.batchStride));
    }
    return layout;
  }

  #choose(
    gemm: Gemm,
    desc: number,
    layouts: readonly [number, number, number, number],
  ): Uint8Array {
    const { a, b, c = gemm.d, d } = gemm;
    const alignment = [b, a, c, d].map(alignmentOf);
    const key = describe(gemm) + alignment.join();
    const known = this.#algorithms.get(key);
    if (known !== undefined) return known;
    const call = this.#call;
    const preference = this.#out((out) => call.cublasLtMatmulPreferenceCreate(out), "preference");
    const set = (attribute: number, value: Uint8Array) =>
      this.#check(
        call.cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, value.length),
        `cublasLtMatmulPreferenceSetAttribute(${attribute})`,
      );
    set(PREFERENCE.workspaceBytes, uint64(WORKSPACE_BYTES));
    set(PREFERENCE.reductionMask, int32(ORDERED_REDUCTIONS));
    PREFERENCE.alignment.forEach((attribute, i) => {
      set(attribute, int32(alignment[i] as number));
    });
    const results = Buffer.alloc(RESULT_BYTES);
    const count = [0];
    const status = call.cublasLtMatmulAlgoGetHeuristic(
      this.#handle,
      desc,
      ...layouts,
      preference,
      1,
      results,
      count,
    ) as number;
    call.cublasLtMatmulPreferenceDestroy(preference);
    if (status !== 0 || count[0] === 0) {
      throw new CudaError(`cuBLASLt has no algorithm for ${describe(gemm)} (status ${status})`);
    }
    const algorithm = results.subarray(0, ALGO_BYTES);
    this.#algorithms.set(key, algorithm);
    return algorithm;
  }

  #out(call: (out: number[]) => number, what: string): number {
    const out = [0];
    this.#check(call(out), what);
    return Number(out[0]);
  }

  #check(status: number, what: string): void {
    if (status !== 0) throw new CudaError(`${what} failed with cuBLAS status ${status}`);
  }
}

/** The problem in words, complete enough to be its key. */
function describe({ m, n, k, batch, a, b, c, d }: Gemm): string {
  const operand = (x: GemmOperand) =>
    `${x.dtype}${x.transposed ? "ᵀ" : ""} stride ${x.leading}/${x.batchStride}` +
    (x.scale ? ` ${x.scale.mode}` : "");
  return (
    `${batch} × [${m}, ${k}] · [${k}, ${n}] of ${operand(a)} and ${operand(b)} into ${operand(d)}` +
    (c ? ` + ${operand(c)}` : "")
  );
}

/** Bytes to which an operand's address is aligned for certain: buffers are aligned to 64. */
function alignmentOf({ at }: GemmOperand): number {
  const offset = "workspace" in at ? at.workspace : (at.offset ?? 0);
  return offset === 0 ? 64 : Math.min(64, offset & -offset);
}

function int32(value: number): Uint8Array {
  return new Uint8Array(Int32Array.of(value).buffer);
}

function float32(value: number): Uint8Array {
  return new Uint8Array(Float32Array.of(value).buffer);
}

function uint64(value: number): Uint8Array {
  return new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);
}
