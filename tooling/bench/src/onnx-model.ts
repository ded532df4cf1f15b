/** The bytes of an ONNX model with a single node: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto */

export interface OneNode {
  readonly op: string;
  /** Shapes of the inputs x0, x1, …, all f32. */
  readonly inputs: readonly (readonly number[])[];
  /** Shape of the output y. */
  readonly output: readonly number[];
  /** Whole numbers are written as integers, the others as floats. */
  readonly attributes?: Readonly<Record<string, number>>;
}

/** The first set of operators with RMSNormalization and Attention. */
const OPSET = 23;
const IR_VERSION = 11;
const FLOAT = 1;
/** AttributeProto.type */
const ATTRIBUTE_FLOAT = 1;
const ATTRIBUTE_INT = 2;

export function oneNodeModel({ op, inputs, output, attributes = {} }: OneNode): Uint8Array {
  const names = inputs.map((_, i) => `x${i}`);
  const node = [
    ...names.map((name) => field(1, text(name))),
    field(2, text("y")),
    field(4, text(op)),
    ...Object.entries(attributes).map(([name, value]) => field(5, attribute(name, value))),
  ];
  const graph = [
    field(1, node.flat()),
    field(2, text(op)),
    ...inputs.map((shape, i) => field(11, valueInfo(names[i]!, shape))),
    field(12, valueInfo("y", output)),
  ];
  return Uint8Array.from([
    ...number(1, IR_VERSION),
    ...field(7, graph.flat()),
    ...field(8, number(2, OPSET)),
  ]);
}

function attribute(name: string, value: number): number[] {
  if (Number.isInteger(value)) {
    return [...field(1, text(name)), ...number(3, value), ...number(20, ATTRIBUTE_INT)];
  }
  const float = new Uint8Array(Float32Array.of(value).buffer);
  return [...field(1, text(name)), ...tag(2, 5), ...float, ...number(20, ATTRIBUTE_FLOAT)];
}

function valueInfo(name: string, shape: readonly number[]): number[] {
  const dims = shape.flatMap((extent) => field(1, number(1, extent)));
  const tensorType = [...number(1, FLOAT), ...field(2, dims)];
  return [...field(1, text(name)), ...field(2, field(1, tensorType))];
}

// Protocol buffers: https://protobuf.dev/programming-guides/encoding
const tag = (id: number, wireType: number): number[] => varint((id << 3) | wireType);
const number = (id: number, value: number): number[] => [...tag(id, 0), ...varint(value)];
const field = (id: number, bytes: readonly number[]): number[] => [
  ...tag(id, 2),
  ...varint(bytes.length),
  ...bytes,
];
const text = (value: string): number[] => [...new TextEncoder().encode(value)];

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) + 128);
  }
}
