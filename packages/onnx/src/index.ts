export { decodeModel, decodeTensor, encodeModel, type ModelProto } from './proto/messages.ts'
export { type LoadExternal, readTensor } from './proto/tensors.ts'
export { isOnnx, modelToGraph, type OnnxOrigin, onnxOriginOf, parseModel, type ReadOptions, readModel } from './read/read.ts'
export { graphToModel, type WriteOptions, writeModel } from './write/write.ts'
