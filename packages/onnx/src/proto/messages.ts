import protobuf from 'protobufjs'

/**
 * ONNX's messages up to IR version 13, by field number (onnx.proto, "ONNX Spec" section "Serialization").
 * Fields that are not listed here (device configurations, later additions) are kept as unknown fields and written back.
 */
const schema = `
syntax = "proto2";
package onnx;
message Entry { optional string key = 1; optional string value = 2; }
message OperatorSet { optional string domain = 1; optional int64 version = 2; }
message Dimension { optional int64 dimValue = 1; optional string dimParam = 2; optional string denotation = 3; }
message Shape { repeated Dimension dim = 1; }
message TensorType { optional int32 elemType = 1; optional Shape shape = 2; }
message ElemType { optional Type elemType = 1; }
message MapType { optional int32 keyType = 1; optional Type valueType = 2; }
message Type {
  optional TensorType tensorType = 1; optional ElemType sequenceType = 4; optional MapType mapType = 5;
  optional TensorType sparseTensorType = 8; optional ElemType optionalType = 9; optional string denotation = 6;
}
message ValueInfo { optional string name = 1; optional Type type = 2; optional string docString = 3; repeated Entry metadataProps = 4; }
message Segment { optional int64 begin = 1; optional int64 end = 2; }
message Tensor {
  repeated int64 dims = 1; optional int32 dataType = 2; optional Segment segment = 3;
  repeated float floatData = 4 [packed = true]; repeated int32 int32Data = 5 [packed = true]; repeated bytes stringData = 6;
  repeated int64 int64Data = 7 [packed = true]; optional string name = 8; optional string docString = 12; optional bytes rawData = 9;
  repeated Entry externalData = 13; optional int32 dataLocation = 14; repeated double doubleData = 10 [packed = true];
  repeated uint64 uint64Data = 11 [packed = true]; repeated Entry metadataProps = 16;
}
message SparseTensor { optional Tensor values = 1; optional Tensor indices = 2; repeated int64 dims = 3; }
message Attribute {
  optional string name = 1; optional string refAttrName = 21; optional string docString = 13; optional int32 type = 20;
  optional float f = 2; optional int64 i = 3; optional bytes s = 4; optional Tensor t = 5; optional Graph g = 6;
  optional SparseTensor sparseTensor = 22; optional Type tp = 14; repeated float floats = 7; repeated int64 ints = 8;
  repeated bytes strings = 9; repeated Tensor tensors = 10; repeated Graph graphs = 11; repeated SparseTensor sparseTensors = 23;
  repeated Type typeProtos = 15;
}
message Node {
  repeated string input = 1; repeated string output = 2; optional string name = 3; optional string opType = 4;
  optional string domain = 7; optional string overload = 8; repeated Attribute attribute = 5; optional string docString = 6;
  repeated Entry metadataProps = 9;
}
message TensorAnnotation { optional string tensorName = 1; repeated Entry quantParameterTensorNames = 2; }
message Graph {
  repeated Node node = 1; optional string name = 2; repeated Tensor initializer = 5; repeated SparseTensor sparseInitializer = 15;
  optional string docString = 10; repeated ValueInfo input = 11; repeated ValueInfo output = 12; repeated ValueInfo valueInfo = 13;
  repeated TensorAnnotation quantizationAnnotation = 14; repeated Entry metadataProps = 16;
}
message TrainingInfo { optional Graph initialization = 1; optional Graph algorithm = 2; repeated Entry initializationBinding = 3; repeated Entry updateBinding = 4; }
message Function {
  optional string name = 1; repeated string input = 4; repeated string output = 5; repeated string attribute = 6;
  repeated Attribute attributeProto = 11; repeated Node node = 7; optional string docString = 8; repeated OperatorSet opsetImport = 9;
  optional string domain = 10; optional string overload = 13; repeated ValueInfo valueInfo = 12; repeated Entry metadataProps = 14;
}
message Model {
  optional int64 irVersion = 1; repeated OperatorSet opsetImport = 8; optional string producerName = 2; optional string producerVersion = 3;
  optional string domain = 4; optional int64 modelVersion = 5; optional string docString = 6; optional Graph graph = 7;
  repeated Entry metadataProps = 14; repeated TrainingInfo trainingInfo = 20; repeated Function functions = 25;
}`

/** protobufjs gives 64-bit integers as Long (or as number where it was built so). */
export interface Long {
  toNumber(): number
  toString(): string
}
export type Int64 = Long | number

export interface EntryProto {
  key?: string
  value?: string
}
export interface DimensionProto {
  dimValue?: Int64
  dimParam?: string
}
export interface TypeProto {
  tensorType?: { elemType?: number; shape?: { dim?: DimensionProto[] } }
  sequenceType?: unknown
  optionalType?: unknown
  mapType?: unknown
  sparseTensorType?: unknown
}
export interface ValueInfoProto {
  name?: string
  type?: TypeProto
}
export interface TensorProto {
  dims?: Int64[]
  dataType?: number
  floatData?: number[]
  int32Data?: number[]
  stringData?: Uint8Array[]
  int64Data?: Int64[]
  doubleData?: number[]
  uint64Data?: Int64[]
  rawData?: Uint8Array
  name?: string
  externalData?: EntryProto[]
  dataLocation?: number
  segment?: unknown
}
export interface SparseTensorProto {
  values?: TensorProto
  indices?: TensorProto
  dims?: Int64[]
}
export interface AttributeProto {
  name?: string
  refAttrName?: string
  type?: number
  f?: number
  i?: Int64
  s?: Uint8Array
  t?: TensorProto
  g?: GraphProto
  floats?: number[]
  ints?: Int64[]
  strings?: Uint8Array[]
  tensors?: TensorProto[]
  graphs?: GraphProto[]
  sparseTensor?: SparseTensorProto
}
export interface NodeProto {
  input?: string[]
  output?: string[]
  name?: string
  opType?: string
  domain?: string
  overload?: string
  attribute?: AttributeProto[]
}
export interface GraphProto {
  node?: NodeProto[]
  name?: string
  initializer?: TensorProto[]
  sparseInitializer?: SparseTensorProto[]
  input?: ValueInfoProto[]
  output?: ValueInfoProto[]
  valueInfo?: ValueInfoProto[]
  quantizationAnnotation?: { tensorName?: string; quantParameterTensorNames?: EntryProto[] }[]
  metadataProps?: EntryProto[]
}
export interface FunctionProto {
  name?: string
  domain?: string
  overload?: string
  input?: string[]
  output?: string[]
  attribute?: string[]
  attributeProto?: AttributeProto[]
  node?: NodeProto[]
  opsetImport?: { domain?: string; version?: Int64 }[]
}
export interface ModelProto {
  irVersion?: Int64
  opsetImport?: { domain?: string; version?: Int64 }[]
  producerName?: string
  producerVersion?: string
  graph?: GraphProto
  functions?: FunctionProto[]
  metadataProps?: EntryProto[]
}

const root = protobuf.parse(schema).root
const modelType = root.lookupType('onnx.Model')

export const toNumber = (v: Int64 | undefined): number => (v === undefined ? 0 : typeof v === 'number' ? v : v.toNumber())

/** Bytes → message, unknown fields kept. Throws protobufjs's errors on malformed bytes. */
export function decodeModel(bytes: Uint8Array): ModelProto {
  const reader = protobuf.Reader.create(bytes)
  // Per reader, not the library's global switch: fields newer than this schema survive a rewrite.
  ;(reader as unknown as { discardUnknown: boolean }).discardUnknown = false
  return modelType.decode(reader) as unknown as ModelProto
}

/** Message → bytes, unknown fields included. */
export const encodeModel = (model: ModelProto): Uint8Array => modelType.encode(model as object).finish()

/** Bytes of a lone TensorProto, as ONNX's test data stores inputs and outputs. */
export const decodeTensor = (bytes: Uint8Array): TensorProto => root.lookupType('onnx.Tensor').decode(bytes) as unknown as TensorProto

/** AttributeProto.type */
export const AttributeType = {
  FLOAT: 1,
  INT: 2,
  STRING: 3,
  TENSOR: 4,
  GRAPH: 5,
  FLOATS: 6,
  INTS: 7,
  STRINGS: 8,
  TENSORS: 9,
  GRAPHS: 10,
} as const
