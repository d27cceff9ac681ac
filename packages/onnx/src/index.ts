export { decodeModel, decodeTensor, encodeModel, type ModelProto } from './proto/messages.ts'
export { type LoadExternal, readTensor } from './proto/tensors.ts'
export { embedExternalData, hasExternalData } from './read/external.ts'
export { inlineFunctions } from './read/functions.ts'
export {
  modelToGraph,
  modelToRealGraph,
  type OnnxOrigin,
  onnxOriginOf,
  parseModel,
  type ReadOptions,
  readModel,
} from './read/read.ts'
export { type Format, fromContainer, toContainer } from './targets/integerRules.ts'
export { type OrtOptions, ortTarget } from './targets/ort.ts'
export { type QcdqOptions, qcdqTarget } from './targets/qcdq.ts'
export { type Flavor, flavors, type QonnxOptions, qonnxTarget, withQuantFunctions } from './targets/qonnx.ts'
export { graphToModel, type WriteOptions, writeModel } from './write/write.ts'
