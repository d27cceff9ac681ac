// Written by scripts/gen-tflite-schema.mjs; do not edit.

/** Fields of each table by slot: name:type, =default where that is not zero. `[x]` is a vector, `|U` a union whose type is the field before. */
export const tables = {
  CustomQuantization: ['custom:[u8]'],
  BlockwiseQuantization: ['scales:i32', 'zeroPoints:i32', 'blockSize:i32', 'blockShape:[i32]'],
  MultiAxisQuantization: ['scales:i32', 'zeroPoints:i32', 'blockSize:i32', 'quantizedDimensions:[i32]'],
  QuantizationParameters: ['min:[f32]', 'max:[f32]', 'scale:[f32]', 'zeroPoint:[i64]', 'detailsType:u8', 'details:|QuantizationDetails', 'quantizedDimension:i32'],
  Int32Vector: ['values:[i32]'],
  Uint16Vector: ['values:[u16]'],
  Uint8Vector: ['values:[u8]'],
  DimensionMetadata: ['format:i8', 'denseSize:i32', 'arraySegmentsType:u8', 'arraySegments:|SparseIndexVector', 'arrayIndicesType:u8', 'arrayIndices:|SparseIndexVector'],
  SparsityParameters: ['traversalOrder:[i32]', 'blockMap:[i32]', 'dimMetadata:[DimensionMetadata]'],
  VariantSubType: ['shape:[i32]', 'type:i8', 'hasRank:bool'],
  Tensor: ['shape:[i32]', 'type:i8', 'buffer:u32', 'name:string', 'quantization:QuantizationParameters', 'isVariable:bool', 'sparsity:SparsityParameters', 'shapeSignature:[i32]', 'hasRank:bool', 'variantTensors:[VariantSubType]', 'externalBuffer:u32'],
  StablehloGatherOptions: ['offsetDims:[i64]', 'collapsedSliceDims:[i64]', 'startIndexMap:[i64]', 'indexVectorDim:i64', 'sliceSizes:[i64]', 'indicesAreSorted:bool'],
  StablehloTransposeOptions: ['permutation:[i64]'],
  StablehloDotGeneralOptions: ['lhsBatchingDimensions:[i64]', 'rhsBatchingDimensions:[i64]', 'lhsContractingDimensions:[i64]', 'rhsContractingDimensions:[i64]', 'precisionConfig:[u32]'],
  StablehloReduceWindowOptions: ['windowDimensions:[i64]', 'windowStrides:[i64]', 'baseDilations:[i64]', 'windowDilations:[i64]', 'padding:[i64]', 'bodySubgraphIndex:i32'],
  StablehloWhileOptions: ['condSubgraphIndex:i32', 'bodySubgraphIndex:i32'],
  StablehloSortOptions: ['dimension:i64', 'isStable:bool', 'comparatorSubgraphIndex:i32'],
  StablehloConcatenateOptions: ['dimension:i64'],
  StablehloBroadcastInDimOptions: ['broadcastDimensions:[i64]'],
  StablehloCompareOptions: ['comparisonDirection:u32', 'compareType:u32'],
  StablehloDynamicSliceOptions: ['sliceSizes:[i64]'],
  StablehloPadOptions: ['edgePaddingLow:[i64]', 'edgePaddingHigh:[i64]', 'interiorPadding:[i64]'],
  StablehloIotaOptions: ['iotaDimension:i64'],
  StablehloCustomCallOptions: ['callTargetName:string', 'hasSideEffect:bool', 'backendConfig:string', 'apiVersion:i32', 'calledComputations:[i32]', 'customAttributes:[u8]'],
  StablehloReduceOptions: ['dimensions:[i64]', 'bodySubgraphIndex:i32'],
  StablehloSliceOptions: ['startIndices:[i64]', 'limitIndices:[i64]', 'strides:[i64]'],
  StablehloConvolutionOptions: ['windowStrides:[i64]', 'padding:[i64]', 'lhsDilation:[i64]', 'rhsDilation:[i64]', 'windowReversal:[bool]', 'inputBatchDimension:i64', 'inputFeatureDimension:i64', 'inputSpatialDimensions:[i64]', 'kernelInputFeatureDimension:i64', 'kernelOutputFeatureDimension:i64', 'kernelSpatialDimensions:[i64]', 'outputBatchDimension:i64', 'outputFeatureDimension:i64', 'outputSpatialDimensions:[i64]', 'featureGroupCount:i64', 'batchGroupCount:i64', 'precisionConfig:[u32]'],
  StablehloScatterOptions: ['indicesAreSorted:bool', 'updateWindowDims:[i64]', 'insertedWindowDims:[i64]', 'scatterDimsToOperandDims:[i64]', 'indexVectorDim:i64', 'uniqueIndices:bool', 'updateComputationSubgraphIndex:i32'],
  StablehloCaseOptions: ['branchSubgraphIndices:[i32]'],
  StablehloRngBitGeneratorOptions: ['algorithm:i8'],
  Conv2DOptions: ['padding:i8', 'strideW:i32', 'strideH:i32', 'fusedActivationFunction:i8', 'dilationWFactor:i32=1', 'dilationHFactor:i32=1', 'quantizedBiasType:i8'],
  Conv3DOptions: ['padding:i8', 'strideD:i32', 'strideW:i32', 'strideH:i32', 'fusedActivationFunction:i8', 'dilationDFactor:i32=1', 'dilationWFactor:i32=1', 'dilationHFactor:i32=1'],
  Pool2DOptions: ['padding:i8', 'strideW:i32', 'strideH:i32', 'filterWidth:i32', 'filterHeight:i32', 'fusedActivationFunction:i8'],
  DepthwiseConv2DOptions: ['padding:i8', 'strideW:i32', 'strideH:i32', 'depthMultiplier:i32', 'fusedActivationFunction:i8', 'dilationWFactor:i32=1', 'dilationHFactor:i32=1'],
  ConcatEmbeddingsOptions: ['numChannels:i32', 'numColumnsPerChannel:[i32]', 'embeddingDimPerChannel:[i32]'],
  LSHProjectionOptions: ['type:i8'],
  SVDFOptions: ['rank:i32', 'fusedActivationFunction:i8', 'asymmetricQuantizeInputs:bool'],
  RNNOptions: ['fusedActivationFunction:i8', 'asymmetricQuantizeInputs:bool'],
  SequenceRNNOptions: ['timeMajor:bool', 'fusedActivationFunction:i8', 'asymmetricQuantizeInputs:bool'],
  BidirectionalSequenceRNNOptions: ['timeMajor:bool', 'fusedActivationFunction:i8', 'mergeOutputs:bool', 'asymmetricQuantizeInputs:bool'],
  FullyConnectedOptions: ['fusedActivationFunction:i8', 'weightsFormat:i8', 'keepNumDims:bool', 'asymmetricQuantizeInputs:bool', 'quantizedBiasType:i8', 'quantSpec:[u8]'],
  SoftmaxOptions: ['beta:f32'],
  ConcatenationOptions: ['axis:i32', 'fusedActivationFunction:i8'],
  AddOptions: ['fusedActivationFunction:i8', 'potScaleInt16:bool=1'],
  MulOptions: ['fusedActivationFunction:i8'],
  L2NormOptions: ['fusedActivationFunction:i8'],
  LocalResponseNormalizationOptions: ['radius:i32', 'bias:f32', 'alpha:f32', 'beta:f32'],
  LSTMOptions: ['fusedActivationFunction:i8', 'cellClip:f32', 'projClip:f32', 'kernelType:i8', 'asymmetricQuantizeInputs:bool'],
  UnidirectionalSequenceLSTMOptions: ['fusedActivationFunction:i8', 'cellClip:f32', 'projClip:f32', 'timeMajor:bool', 'asymmetricQuantizeInputs:bool', 'diagonalRecurrentTensors:bool'],
  BidirectionalSequenceLSTMOptions: ['fusedActivationFunction:i8', 'cellClip:f32', 'projClip:f32', 'mergeOutputs:bool', 'timeMajor:bool=1', 'asymmetricQuantizeInputs:bool'],
  ResizeBilinearOptions: [':u8', ':u8', 'alignCorners:bool', 'halfPixelCenters:bool'],
  ResizeNearestNeighborOptions: ['alignCorners:bool', 'halfPixelCenters:bool'],
  CallOptions: ['subgraph:u32'],
  PadOptions: [],
  PadV2Options: [],
  ReshapeOptions: ['newShape:[i32]'],
  SpaceToBatchNDOptions: [],
  BatchToSpaceNDOptions: [],
  SkipGramOptions: ['ngramSize:i32', 'maxSkipSize:i32', 'includeAllNgrams:bool'],
  SpaceToDepthOptions: ['blockSize:i32'],
  DepthToSpaceOptions: ['blockSize:i32'],
  SubOptions: ['fusedActivationFunction:i8', 'potScaleInt16:bool=1'],
  DivOptions: ['fusedActivationFunction:i8'],
  TopKV2Options: [],
  EmbeddingLookupSparseOptions: ['combiner:i8'],
  GatherOptions: ['axis:i32', 'batchDims:i32'],
  TransposeOptions: [],
  ExpOptions: [],
  CosOptions: [],
  ReducerOptions: ['keepDims:bool'],
  SqueezeOptions: ['squeezeDims:[i32]'],
  SplitOptions: ['numSplits:i32'],
  SplitVOptions: ['numSplits:i32'],
  StridedSliceOptions: ['beginMask:i32', 'endMask:i32', 'ellipsisMask:i32', 'newAxisMask:i32', 'shrinkAxisMask:i32', 'offset:bool'],
  LogSoftmaxOptions: [],
  CastOptions: ['inDataType:i8', 'outDataType:i8'],
  DequantizeOptions: [],
  MaximumMinimumOptions: [],
  TileOptions: [],
  ArgMaxOptions: ['outputType:i8'],
  ArgMinOptions: ['outputType:i8'],
  GreaterOptions: [],
  GreaterEqualOptions: [],
  LessOptions: [],
  LessEqualOptions: [],
  NegOptions: [],
  SelectOptions: [],
  SliceOptions: [],
  TransposeConvOptions: ['padding:i8', 'strideW:i32', 'strideH:i32', 'fusedActivationFunction:i8', 'quantizedBiasType:i8'],
  ExpandDimsOptions: [],
  SparseToDenseOptions: ['validateIndices:bool'],
  EqualOptions: [],
  NotEqualOptions: [],
  ShapeOptions: ['outType:i8'],
  RankOptions: [],
  PowOptions: [],
  FakeQuantOptions: ['min:f32', 'max:f32', 'numBits:i32', 'narrowRange:bool'],
  PackOptions: ['valuesCount:i32', 'axis:i32'],
  LogicalOrOptions: [],
  OneHotOptions: ['axis:i32'],
  AbsOptions: [],
  HardSwishOptions: [],
  LogicalAndOptions: [],
  LogicalNotOptions: [],
  UnpackOptions: ['num:i32', 'axis:i32'],
  FloorDivOptions: [],
  SquareOptions: [],
  ZerosLikeOptions: [],
  FillOptions: [],
  FloorModOptions: [],
  RangeOptions: [],
  LeakyReluOptions: ['alpha:f32'],
  SquaredDifferenceOptions: [],
  MirrorPadOptions: ['mode:i8'],
  UniqueOptions: ['idxOutType:i8=2'],
  ReverseV2Options: [],
  AddNOptions: [],
  GatherNdOptions: [],
  WhereOptions: [],
  ReverseSequenceOptions: ['seqDim:i32', 'batchDim:i32'],
  MatrixDiagOptions: [],
  QuantizeOptions: [],
  MatrixSetDiagOptions: [],
  IfOptions: ['thenSubgraphIndex:i32', 'elseSubgraphIndex:i32'],
  CallOnceOptions: ['initSubgraphIndex:i32'],
  WhileOptions: ['condSubgraphIndex:i32', 'bodySubgraphIndex:i32'],
  NonMaxSuppressionV4Options: [],
  NonMaxSuppressionV5Options: [],
  ScatterNdOptions: [],
  SelectV2Options: [],
  DensifyOptions: [],
  SegmentSumOptions: [],
  BatchMatMulOptions: ['adjX:bool', 'adjY:bool', 'asymmetricQuantizeInputs:bool'],
  CumsumOptions: ['exclusive:bool', 'reverse:bool'],
  BroadcastToOptions: [],
  Rfft2dOptions: [],
  HashtableOptions: ['tableId:i32', 'keyDtype:i8', 'valueDtype:i8'],
  HashtableFindOptions: [],
  HashtableImportOptions: [],
  HashtableSizeOptions: [],
  VarHandleOptions: ['container:string', 'sharedName:string'],
  ReadVariableOptions: [],
  AssignVariableOptions: [],
  RandomOptions: ['seed:i64', 'seed2:i64'],
  BucketizeOptions: ['boundaries:[f32]'],
  GeluOptions: ['approximate:bool'],
  DynamicUpdateSliceOptions: [],
  UnsortedSegmentProdOptions: [],
  UnsortedSegmentMaxOptions: [],
  UnsortedSegmentSumOptions: [],
  ATan2Options: [],
  UnsortedSegmentMinOptions: [],
  SignOptions: [],
  BitcastOptions: [],
  BitwiseXorOptions: [],
  RightShiftOptions: [],
  DilateOptions: [],
  ReduceWindowOptions: ['reduceFunction:i32'],
  OperatorCode: ['deprecatedBuiltinCode:i8', 'customCode:string', 'version:i32=1', 'builtinCode:i32'],
  StableHLOCompositeOptions: ['name:string', 'decompositionSubgraphIndex:i32', 'compositeAttributes:[u8]', 'compositeAttributesFormat:i8', 'version:i32'],
  StablehloShiftLeftOptions: [],
  Operator: ['opcodeIndex:u32', 'inputs:[i32]', 'outputs:[i32]', 'builtinOptionsType:u8', 'builtinOptions:|BuiltinOptions', 'customOptions:[u8]', 'customOptionsFormat:i8', 'mutatingVariableInputs:[bool]', 'intermediates:[i32]', 'largeCustomOptionsOffset:u64', 'largeCustomOptionsSize:u64', 'builtinOptions2Type:u8', 'builtinOptions2:|BuiltinOptions2', 'debugMetadataIndex:i32=-1'],
  SubGraph: ['tensors:[Tensor]', 'inputs:[i32]', 'outputs:[i32]', 'operators:[Operator]', 'name:string', 'debugMetadataIndex:i32=-1'],
  Buffer: ['data:[u8]', 'offset:u64', 'size:u64'],
  ExternalBufferGroup: ['name:string'],
  ExternalBuffer: ['id:u32', 'group:u32', 'offset:u64', 'length:u64', 'packing:string'],
  Metadata: ['name:string', 'buffer:u32'],
  TensorMap: ['name:string', 'tensorIndex:u32'],
  SignatureDef: ['inputs:[TensorMap]', 'outputs:[TensorMap]', 'signatureKey:string', ':u8', 'subgraphIndex:u32'],
  Model: ['version:u32', 'operatorCodes:[OperatorCode]', 'subgraphs:[SubGraph]', 'description:string', 'buffers:[Buffer]', 'metadataBuffer:[i32]', 'metadata:[Metadata]', 'signatureDefs:[SignatureDef]', 'externalBufferGroups:[ExternalBufferGroup]', 'externalBuffers:[ExternalBuffer]'],
} as const satisfies Record<string, readonly string[]>

/** Members of each union, by type number; null is none. */
export const unions: Readonly<Record<string, readonly (keyof typeof tables | null)[]>> = {
  QuantizationDetails: [null, 'CustomQuantization', 'BlockwiseQuantization', 'MultiAxisQuantization'],
  SparseIndexVector: [null, 'Int32Vector', 'Uint16Vector', 'Uint8Vector'],
  BuiltinOptions: [null, 'Conv2DOptions', 'DepthwiseConv2DOptions', 'ConcatEmbeddingsOptions', 'LSHProjectionOptions', 'Pool2DOptions', 'SVDFOptions', 'RNNOptions', 'FullyConnectedOptions', 'SoftmaxOptions', 'ConcatenationOptions', 'AddOptions', 'L2NormOptions', 'LocalResponseNormalizationOptions', 'LSTMOptions', 'ResizeBilinearOptions', 'CallOptions', 'ReshapeOptions', 'SkipGramOptions', 'SpaceToDepthOptions', 'EmbeddingLookupSparseOptions', 'MulOptions', 'PadOptions', 'GatherOptions', 'BatchToSpaceNDOptions', 'SpaceToBatchNDOptions', 'TransposeOptions', 'ReducerOptions', 'SubOptions', 'DivOptions', 'SqueezeOptions', 'SequenceRNNOptions', 'StridedSliceOptions', 'ExpOptions', 'TopKV2Options', 'SplitOptions', 'LogSoftmaxOptions', 'CastOptions', 'DequantizeOptions', 'MaximumMinimumOptions', 'ArgMaxOptions', 'LessOptions', 'NegOptions', 'PadV2Options', 'GreaterOptions', 'GreaterEqualOptions', 'LessEqualOptions', 'SelectOptions', 'SliceOptions', 'TransposeConvOptions', 'SparseToDenseOptions', 'TileOptions', 'ExpandDimsOptions', 'EqualOptions', 'NotEqualOptions', 'ShapeOptions', 'PowOptions', 'ArgMinOptions', 'FakeQuantOptions', 'PackOptions', 'LogicalOrOptions', 'OneHotOptions', 'LogicalAndOptions', 'LogicalNotOptions', 'UnpackOptions', 'FloorDivOptions', 'SquareOptions', 'ZerosLikeOptions', 'FillOptions', 'BidirectionalSequenceLSTMOptions', 'BidirectionalSequenceRNNOptions', 'UnidirectionalSequenceLSTMOptions', 'FloorModOptions', 'RangeOptions', 'ResizeNearestNeighborOptions', 'LeakyReluOptions', 'SquaredDifferenceOptions', 'MirrorPadOptions', 'AbsOptions', 'SplitVOptions', 'UniqueOptions', 'ReverseV2Options', 'AddNOptions', 'GatherNdOptions', 'CosOptions', 'WhereOptions', 'RankOptions', 'ReverseSequenceOptions', 'MatrixDiagOptions', 'QuantizeOptions', 'MatrixSetDiagOptions', 'HardSwishOptions', 'IfOptions', 'WhileOptions', 'DepthToSpaceOptions', 'NonMaxSuppressionV4Options', 'NonMaxSuppressionV5Options', 'ScatterNdOptions', 'SelectV2Options', 'DensifyOptions', 'SegmentSumOptions', 'BatchMatMulOptions', 'CumsumOptions', 'CallOnceOptions', 'BroadcastToOptions', 'Rfft2dOptions', 'Conv3DOptions', 'HashtableOptions', 'HashtableFindOptions', 'HashtableImportOptions', 'HashtableSizeOptions', 'VarHandleOptions', 'ReadVariableOptions', 'AssignVariableOptions', 'RandomOptions', 'BucketizeOptions', 'GeluOptions', 'DynamicUpdateSliceOptions', 'UnsortedSegmentProdOptions', 'UnsortedSegmentMaxOptions', 'UnsortedSegmentMinOptions', 'UnsortedSegmentSumOptions', 'ATan2Options', 'SignOptions', 'BitcastOptions', 'BitwiseXorOptions', 'RightShiftOptions'],
  BuiltinOptions2: [null, 'StablehloConcatenateOptions', 'StablehloBroadcastInDimOptions', 'StablehloSliceOptions', 'StablehloConvolutionOptions', 'StablehloCustomCallOptions', 'StablehloReduceOptions', 'StablehloScatterOptions', 'StablehloCompareOptions', 'StablehloDynamicSliceOptions', 'StablehloPadOptions', 'StablehloIotaOptions', 'StablehloDotGeneralOptions', 'StablehloReduceWindowOptions', 'StablehloSortOptions', 'StablehloWhileOptions', 'StablehloGatherOptions', 'StablehloTransposeOptions', 'DilateOptions', 'StablehloRngBitGeneratorOptions', 'ReduceWindowOptions', 'StableHLOCompositeOptions', 'StablehloShiftLeftOptions', 'StablehloCaseOptions'],
}

export const TensorType = { FLOAT32: 0, FLOAT16: 1, INT32: 2, UINT8: 3, INT64: 4, STRING: 5, BOOL: 6, INT16: 7, COMPLEX64: 8, INT8: 9, FLOAT64: 10, COMPLEX128: 11, UINT64: 12, RESOURCE: 13, VARIANT: 14, UINT32: 15, UINT16: 16, INT4: 17, BFLOAT16: 18, INT2: 19, UINT4: 20, FLOAT8_E4M3FN: 21, FLOAT8_E5M2: 22 } as const
export const DimensionType = { DENSE: 0, SPARSE_CSR: 1 } as const
export const BuiltinOperator = { ADD: 0, AVERAGE_POOL_2D: 1, CONCATENATION: 2, CONV_2D: 3, DEPTHWISE_CONV_2D: 4, DEPTH_TO_SPACE: 5, DEQUANTIZE: 6, EMBEDDING_LOOKUP: 7, FLOOR: 8, FULLY_CONNECTED: 9, HASHTABLE_LOOKUP: 10, L2_NORMALIZATION: 11, L2_POOL_2D: 12, LOCAL_RESPONSE_NORMALIZATION: 13, LOGISTIC: 14, LSH_PROJECTION: 15, LSTM: 16, MAX_POOL_2D: 17, MUL: 18, RELU: 19, RELU_N1_TO_1: 20, RELU6: 21, RESHAPE: 22, RESIZE_BILINEAR: 23, RNN: 24, SOFTMAX: 25, SPACE_TO_DEPTH: 26, SVDF: 27, TANH: 28, CONCAT_EMBEDDINGS: 29, SKIP_GRAM: 30, CALL: 31, CUSTOM: 32, EMBEDDING_LOOKUP_SPARSE: 33, PAD: 34, UNIDIRECTIONAL_SEQUENCE_RNN: 35, GATHER: 36, BATCH_TO_SPACE_ND: 37, SPACE_TO_BATCH_ND: 38, TRANSPOSE: 39, MEAN: 40, SUB: 41, DIV: 42, SQUEEZE: 43, UNIDIRECTIONAL_SEQUENCE_LSTM: 44, STRIDED_SLICE: 45, BIDIRECTIONAL_SEQUENCE_RNN: 46, EXP: 47, TOPK_V2: 48, SPLIT: 49, LOG_SOFTMAX: 50, DELEGATE: 51, BIDIRECTIONAL_SEQUENCE_LSTM: 52, CAST: 53, PRELU: 54, MAXIMUM: 55, ARG_MAX: 56, MINIMUM: 57, LESS: 58, NEG: 59, PADV2: 60, GREATER: 61, GREATER_EQUAL: 62, LESS_EQUAL: 63, SELECT: 64, SLICE: 65, SIN: 66, TRANSPOSE_CONV: 67, SPARSE_TO_DENSE: 68, TILE: 69, EXPAND_DIMS: 70, EQUAL: 71, NOT_EQUAL: 72, LOG: 73, SUM: 74, SQRT: 75, RSQRT: 76, SHAPE: 77, POW: 78, ARG_MIN: 79, FAKE_QUANT: 80, REDUCE_PROD: 81, REDUCE_MAX: 82, PACK: 83, LOGICAL_OR: 84, ONE_HOT: 85, LOGICAL_AND: 86, LOGICAL_NOT: 87, UNPACK: 88, REDUCE_MIN: 89, FLOOR_DIV: 90, REDUCE_ANY: 91, SQUARE: 92, ZEROS_LIKE: 93, FILL: 94, FLOOR_MOD: 95, RANGE: 96, RESIZE_NEAREST_NEIGHBOR: 97, LEAKY_RELU: 98, SQUARED_DIFFERENCE: 99, MIRROR_PAD: 100, ABS: 101, SPLIT_V: 102, UNIQUE: 103, CEIL: 104, REVERSE_V2: 105, ADD_N: 106, GATHER_ND: 107, COS: 108, WHERE: 109, RANK: 110, ELU: 111, REVERSE_SEQUENCE: 112, MATRIX_DIAG: 113, QUANTIZE: 114, MATRIX_SET_DIAG: 115, ROUND: 116, HARD_SWISH: 117, IF: 118, WHILE: 119, NON_MAX_SUPPRESSION_V4: 120, NON_MAX_SUPPRESSION_V5: 121, SCATTER_ND: 122, SELECT_V2: 123, DENSIFY: 124, SEGMENT_SUM: 125, BATCH_MATMUL: 126, PLACEHOLDER_FOR_GREATER_OP_CODES: 127, CUMSUM: 128, CALL_ONCE: 129, BROADCAST_TO: 130, RFFT2D: 131, CONV_3D: 132, IMAG: 133, REAL: 134, COMPLEX_ABS: 135, HASHTABLE: 136, HASHTABLE_FIND: 137, HASHTABLE_IMPORT: 138, HASHTABLE_SIZE: 139, REDUCE_ALL: 140, CONV_3D_TRANSPOSE: 141, VAR_HANDLE: 142, READ_VARIABLE: 143, ASSIGN_VARIABLE: 144, BROADCAST_ARGS: 145, RANDOM_STANDARD_NORMAL: 146, BUCKETIZE: 147, RANDOM_UNIFORM: 148, MULTINOMIAL: 149, GELU: 150, DYNAMIC_UPDATE_SLICE: 151, RELU_0_TO_1: 152, UNSORTED_SEGMENT_PROD: 153, UNSORTED_SEGMENT_MAX: 154, UNSORTED_SEGMENT_SUM: 155, ATAN2: 156, UNSORTED_SEGMENT_MIN: 157, SIGN: 158, BITCAST: 159, BITWISE_XOR: 160, RIGHT_SHIFT: 161, STABLEHLO_LOGISTIC: 162, STABLEHLO_ADD: 163, STABLEHLO_DIVIDE: 164, STABLEHLO_MULTIPLY: 165, STABLEHLO_MAXIMUM: 166, STABLEHLO_RESHAPE: 167, STABLEHLO_CLAMP: 168, STABLEHLO_CONCATENATE: 169, STABLEHLO_BROADCAST_IN_DIM: 170, STABLEHLO_CONVOLUTION: 171, STABLEHLO_SLICE: 172, STABLEHLO_CUSTOM_CALL: 173, STABLEHLO_REDUCE: 174, STABLEHLO_ABS: 175, STABLEHLO_AND: 176, STABLEHLO_COSINE: 177, STABLEHLO_EXPONENTIAL: 178, STABLEHLO_FLOOR: 179, STABLEHLO_LOG: 180, STABLEHLO_MINIMUM: 181, STABLEHLO_NEGATE: 182, STABLEHLO_OR: 183, STABLEHLO_POWER: 184, STABLEHLO_REMAINDER: 185, STABLEHLO_RSQRT: 186, STABLEHLO_SELECT: 187, STABLEHLO_SUBTRACT: 188, STABLEHLO_TANH: 189, STABLEHLO_SCATTER: 190, STABLEHLO_COMPARE: 191, STABLEHLO_CONVERT: 192, STABLEHLO_DYNAMIC_SLICE: 193, STABLEHLO_DYNAMIC_UPDATE_SLICE: 194, STABLEHLO_PAD: 195, STABLEHLO_IOTA: 196, STABLEHLO_DOT_GENERAL: 197, STABLEHLO_REDUCE_WINDOW: 198, STABLEHLO_SORT: 199, STABLEHLO_WHILE: 200, STABLEHLO_GATHER: 201, STABLEHLO_TRANSPOSE: 202, DILATE: 203, STABLEHLO_RNG_BIT_GENERATOR: 204, REDUCE_WINDOW: 205, STABLEHLO_COMPOSITE: 206, STABLEHLO_SHIFT_LEFT: 207, STABLEHLO_CBRT: 208, STABLEHLO_CASE: 209 } as const
export const StablehloPrecisionConfig = { DEFAULT: 0, HIGH: 1, HIGHEST: 2 } as const
export const StablehloComparisonDirection = { STABLEHLO_COMPARISON_DIRECTION_EQ: 0, STABLEHLO_COMPARISON_DIRECTION_NE: 1, STABLEHLO_COMPARISON_DIRECTION_GE: 2, STABLEHLO_COMPARISON_DIRECTION_GT: 3, STABLEHLO_COMPARISON_DIRECTION_LE: 4, STABLEHLO_COMPARISON_DIRECTION_LT: 5 } as const
export const StablehloComparisonType = { STABLEHLO_COMPARISON_TYPE_NOTYPE: 0, STABLEHLO_COMPARISON_TYPE_FLOAT: 1, STABLEHLO_COMPARISON_TYPE_FLOAT_TOTAL_ORDER: 2, STABLEHLO_COMPARISON_TYPE_SIGNED: 3, STABLEHLO_COMPARISON_TYPE_UNSIGNED: 4 } as const
export const RngAlgorithm = { DEFAULT: 0, PHILOX: 1, THREEFRY: 2 } as const
export const Padding = { SAME: 0, VALID: 1 } as const
export const ActivationFunctionType = { NONE: 0, RELU: 1, RELU_N1_TO_1: 2, RELU6: 3, TANH: 4, SIGN_BIT: 5 } as const
export const LSHProjectionType = { UNKNOWN: 0, SPARSE: 1, DENSE: 2 } as const
export const FullyConnectedOptionsWeightsFormat = { DEFAULT: 0, SHUFFLED4x16INT8: 1 } as const
export const LSTMKernelType = { FULL: 0, BASIC: 1 } as const
export const CombinerType = { SUM: 0, MEAN: 1, SQRTN: 2 } as const
export const MirrorPadMode = { REFLECT: 0, SYMMETRIC: 1 } as const
export const ReduceWindowFunction = { UNSUPPORTED: 0, ADD: 1, MUL: 2, MINIMUM: 3, MAXIMUM: 4, ALL: 5, ANY: 6 } as const
export const CustomOptionsFormat = { FLEXBUFFERS: 0 } as const

export interface CustomQuantization {
  readonly custom?: Uint8Array | undefined
}

export interface BlockwiseQuantization {
  readonly scales?: number | undefined
  readonly zeroPoints?: number | undefined
  readonly blockSize?: number | undefined
  readonly blockShape?: Int32Array | undefined
}

export interface MultiAxisQuantization {
  readonly scales?: number | undefined
  readonly zeroPoints?: number | undefined
  readonly blockSize?: number | undefined
  readonly quantizedDimensions?: Int32Array | undefined
}

export interface QuantizationParameters {
  readonly min?: Float32Array | undefined
  readonly max?: Float32Array | undefined
  readonly scale?: Float32Array | undefined
  readonly zeroPoint?: BigInt64Array | undefined
  readonly detailsType?: number | undefined
  readonly details?: object | undefined
  readonly quantizedDimension?: number | undefined
}

export interface Int32Vector {
  readonly values?: Int32Array | undefined
}

export interface Uint16Vector {
  readonly values?: Uint16Array | undefined
}

export interface Uint8Vector {
  readonly values?: Uint8Array | undefined
}

export interface DimensionMetadata {
  readonly format?: number | undefined
  readonly denseSize?: number | undefined
  readonly arraySegmentsType?: number | undefined
  readonly arraySegments?: object | undefined
  readonly arrayIndicesType?: number | undefined
  readonly arrayIndices?: object | undefined
}

export interface SparsityParameters {
  readonly traversalOrder?: Int32Array | undefined
  readonly blockMap?: Int32Array | undefined
  readonly dimMetadata?: readonly DimensionMetadata[] | undefined
}

export interface VariantSubType {
  readonly shape?: Int32Array | undefined
  readonly type?: number | undefined
  readonly hasRank?: boolean | undefined
}

export interface Tensor {
  readonly shape?: Int32Array | undefined
  readonly type?: number | undefined
  readonly buffer?: number | undefined
  readonly name?: string | undefined
  readonly quantization?: QuantizationParameters | undefined
  readonly isVariable?: boolean | undefined
  readonly sparsity?: SparsityParameters | undefined
  readonly shapeSignature?: Int32Array | undefined
  readonly hasRank?: boolean | undefined
  readonly variantTensors?: readonly VariantSubType[] | undefined
  readonly externalBuffer?: number | undefined
}

export interface StablehloGatherOptions {
  readonly offsetDims?: BigInt64Array | undefined
  readonly collapsedSliceDims?: BigInt64Array | undefined
  readonly startIndexMap?: BigInt64Array | undefined
  readonly indexVectorDim?: bigint | undefined
  readonly sliceSizes?: BigInt64Array | undefined
  readonly indicesAreSorted?: boolean | undefined
}

export interface StablehloTransposeOptions {
  readonly permutation?: BigInt64Array | undefined
}

export interface StablehloDotGeneralOptions {
  readonly lhsBatchingDimensions?: BigInt64Array | undefined
  readonly rhsBatchingDimensions?: BigInt64Array | undefined
  readonly lhsContractingDimensions?: BigInt64Array | undefined
  readonly rhsContractingDimensions?: BigInt64Array | undefined
  readonly precisionConfig?: Uint32Array | undefined
}

export interface StablehloReduceWindowOptions {
  readonly windowDimensions?: BigInt64Array | undefined
  readonly windowStrides?: BigInt64Array | undefined
  readonly baseDilations?: BigInt64Array | undefined
  readonly windowDilations?: BigInt64Array | undefined
  readonly padding?: BigInt64Array | undefined
  readonly bodySubgraphIndex?: number | undefined
}

export interface StablehloWhileOptions {
  readonly condSubgraphIndex?: number | undefined
  readonly bodySubgraphIndex?: number | undefined
}

export interface StablehloSortOptions {
  readonly dimension?: bigint | undefined
  readonly isStable?: boolean | undefined
  readonly comparatorSubgraphIndex?: number | undefined
}

export interface StablehloConcatenateOptions {
  readonly dimension?: bigint | undefined
}

export interface StablehloBroadcastInDimOptions {
  readonly broadcastDimensions?: BigInt64Array | undefined
}

export interface StablehloCompareOptions {
  readonly comparisonDirection?: number | undefined
  readonly compareType?: number | undefined
}

export interface StablehloDynamicSliceOptions {
  readonly sliceSizes?: BigInt64Array | undefined
}

export interface StablehloPadOptions {
  readonly edgePaddingLow?: BigInt64Array | undefined
  readonly edgePaddingHigh?: BigInt64Array | undefined
  readonly interiorPadding?: BigInt64Array | undefined
}

export interface StablehloIotaOptions {
  readonly iotaDimension?: bigint | undefined
}

export interface StablehloCustomCallOptions {
  readonly callTargetName?: string | undefined
  readonly hasSideEffect?: boolean | undefined
  readonly backendConfig?: string | undefined
  readonly apiVersion?: number | undefined
  readonly calledComputations?: Int32Array | undefined
  readonly customAttributes?: Uint8Array | undefined
}

export interface StablehloReduceOptions {
  readonly dimensions?: BigInt64Array | undefined
  readonly bodySubgraphIndex?: number | undefined
}

export interface StablehloSliceOptions {
  readonly startIndices?: BigInt64Array | undefined
  readonly limitIndices?: BigInt64Array | undefined
  readonly strides?: BigInt64Array | undefined
}

export interface StablehloConvolutionOptions {
  readonly windowStrides?: BigInt64Array | undefined
  readonly padding?: BigInt64Array | undefined
  readonly lhsDilation?: BigInt64Array | undefined
  readonly rhsDilation?: BigInt64Array | undefined
  readonly windowReversal?: Uint8Array | undefined
  readonly inputBatchDimension?: bigint | undefined
  readonly inputFeatureDimension?: bigint | undefined
  readonly inputSpatialDimensions?: BigInt64Array | undefined
  readonly kernelInputFeatureDimension?: bigint | undefined
  readonly kernelOutputFeatureDimension?: bigint | undefined
  readonly kernelSpatialDimensions?: BigInt64Array | undefined
  readonly outputBatchDimension?: bigint | undefined
  readonly outputFeatureDimension?: bigint | undefined
  readonly outputSpatialDimensions?: BigInt64Array | undefined
  readonly featureGroupCount?: bigint | undefined
  readonly batchGroupCount?: bigint | undefined
  readonly precisionConfig?: Uint32Array | undefined
}

export interface StablehloScatterOptions {
  readonly indicesAreSorted?: boolean | undefined
  readonly updateWindowDims?: BigInt64Array | undefined
  readonly insertedWindowDims?: BigInt64Array | undefined
  readonly scatterDimsToOperandDims?: BigInt64Array | undefined
  readonly indexVectorDim?: bigint | undefined
  readonly uniqueIndices?: boolean | undefined
  readonly updateComputationSubgraphIndex?: number | undefined
}

export interface StablehloCaseOptions {
  readonly branchSubgraphIndices?: Int32Array | undefined
}

export interface StablehloRngBitGeneratorOptions {
  readonly algorithm?: number | undefined
}

export interface Conv2DOptions {
  readonly padding?: number | undefined
  readonly strideW?: number | undefined
  readonly strideH?: number | undefined
  readonly fusedActivationFunction?: number | undefined
  readonly dilationWFactor?: number | undefined
  readonly dilationHFactor?: number | undefined
  readonly quantizedBiasType?: number | undefined
}

export interface Conv3DOptions {
  readonly padding?: number | undefined
  readonly strideD?: number | undefined
  readonly strideW?: number | undefined
  readonly strideH?: number | undefined
  readonly fusedActivationFunction?: number | undefined
  readonly dilationDFactor?: number | undefined
  readonly dilationWFactor?: number | undefined
  readonly dilationHFactor?: number | undefined
}

export interface Pool2DOptions {
  readonly padding?: number | undefined
  readonly strideW?: number | undefined
  readonly strideH?: number | undefined
  readonly filterWidth?: number | undefined
  readonly filterHeight?: number | undefined
  readonly fusedActivationFunction?: number | undefined
}

export interface DepthwiseConv2DOptions {
  readonly padding?: number | undefined
  readonly strideW?: number | undefined
  readonly strideH?: number | undefined
  readonly depthMultiplier?: number | undefined
  readonly fusedActivationFunction?: number | undefined
  readonly dilationWFactor?: number | undefined
  readonly dilationHFactor?: number | undefined
}

export interface ConcatEmbeddingsOptions {
  readonly numChannels?: number | undefined
  readonly numColumnsPerChannel?: Int32Array | undefined
  readonly embeddingDimPerChannel?: Int32Array | undefined
}

export interface LSHProjectionOptions {
  readonly type?: number | undefined
}

export interface SVDFOptions {
  readonly rank?: number | undefined
  readonly fusedActivationFunction?: number | undefined
  readonly asymmetricQuantizeInputs?: boolean | undefined
}

export interface RNNOptions {
  readonly fusedActivationFunction?: number | undefined
  readonly asymmetricQuantizeInputs?: boolean | undefined
}

export interface SequenceRNNOptions {
  readonly timeMajor?: boolean | undefined
  readonly fusedActivationFunction?: number | undefined
  readonly asymmetricQuantizeInputs?: boolean | undefined
}

export interface BidirectionalSequenceRNNOptions {
  readonly timeMajor?: boolean | undefined
  readonly fusedActivationFunction?: number | undefined
  readonly mergeOutputs?: boolean | undefined
  readonly asymmetricQuantizeInputs?: boolean | undefined
}

export interface FullyConnectedOptions {
  readonly fusedActivationFunction?: number | undefined
  readonly weightsFormat?: number | undefined
  readonly keepNumDims?: boolean | undefined
  readonly asymmetricQuantizeInputs?: boolean | undefined
  readonly quantizedBiasType?: number | undefined
  readonly quantSpec?: Uint8Array | undefined
}

export interface SoftmaxOptions {
  readonly beta?: number | undefined
}

export interface ConcatenationOptions {
  readonly axis?: number | undefined
  readonly fusedActivationFunction?: number | undefined
}

export interface AddOptions {
  readonly fusedActivationFunction?: number | undefined
  readonly potScaleInt16?: boolean | undefined
}

export interface MulOptions {
  readonly fusedActivationFunction?: number | undefined
}

export interface L2NormOptions {
  readonly fusedActivationFunction?: number | undefined
}

export interface LocalResponseNormalizationOptions {
  readonly radius?: number | undefined
  readonly bias?: number | undefined
  readonly alpha?: number | undefined
  readonly beta?: number | undefined
}

export interface LSTMOptions {
  readonly fusedActivationFunction?: number | undefined
  readonly cellClip?: number | undefined
  readonly projClip?: number | undefined
  readonly kernelType?: number | undefined
  readonly asymmetricQuantizeInputs?: boolean | undefined
}

export interface UnidirectionalSequenceLSTMOptions {
  readonly fusedActivationFunction?: number | undefined
  readonly cellClip?: number | undefined
  readonly projClip?: number | undefined
  readonly timeMajor?: boolean | undefined
  readonly asymmetricQuantizeInputs?: boolean | undefined
  readonly diagonalRecurrentTensors?: boolean | undefined
}

export interface BidirectionalSequenceLSTMOptions {
  readonly fusedActivationFunction?: number | undefined
  readonly cellClip?: number | undefined
  readonly projClip?: number | undefined
  readonly mergeOutputs?: boolean | undefined
  readonly timeMajor?: boolean | undefined
  readonly asymmetricQuantizeInputs?: boolean | undefined
}

export interface ResizeBilinearOptions {
  readonly alignCorners?: boolean | undefined
  readonly halfPixelCenters?: boolean | undefined
}

export interface ResizeNearestNeighborOptions {
  readonly alignCorners?: boolean | undefined
  readonly halfPixelCenters?: boolean | undefined
}

export interface CallOptions {
  readonly subgraph?: number | undefined
}

export interface PadOptions {
}

export interface PadV2Options {
}

export interface ReshapeOptions {
  readonly newShape?: Int32Array | undefined
}

export interface SpaceToBatchNDOptions {
}

export interface BatchToSpaceNDOptions {
}

export interface SkipGramOptions {
  readonly ngramSize?: number | undefined
  readonly maxSkipSize?: number | undefined
  readonly includeAllNgrams?: boolean | undefined
}

export interface SpaceToDepthOptions {
  readonly blockSize?: number | undefined
}

export interface DepthToSpaceOptions {
  readonly blockSize?: number | undefined
}

export interface SubOptions {
  readonly fusedActivationFunction?: number | undefined
  readonly potScaleInt16?: boolean | undefined
}

export interface DivOptions {
  readonly fusedActivationFunction?: number | undefined
}

export interface TopKV2Options {
}

export interface EmbeddingLookupSparseOptions {
  readonly combiner?: number | undefined
}

export interface GatherOptions {
  readonly axis?: number | undefined
  readonly batchDims?: number | undefined
}

export interface TransposeOptions {
}

export interface ExpOptions {
}

export interface CosOptions {
}

export interface ReducerOptions {
  readonly keepDims?: boolean | undefined
}

export interface SqueezeOptions {
  readonly squeezeDims?: Int32Array | undefined
}

export interface SplitOptions {
  readonly numSplits?: number | undefined
}

export interface SplitVOptions {
  readonly numSplits?: number | undefined
}

export interface StridedSliceOptions {
  readonly beginMask?: number | undefined
  readonly endMask?: number | undefined
  readonly ellipsisMask?: number | undefined
  readonly newAxisMask?: number | undefined
  readonly shrinkAxisMask?: number | undefined
  readonly offset?: boolean | undefined
}

export interface LogSoftmaxOptions {
}

export interface CastOptions {
  readonly inDataType?: number | undefined
  readonly outDataType?: number | undefined
}

export interface DequantizeOptions {
}

export interface MaximumMinimumOptions {
}

export interface TileOptions {
}

export interface ArgMaxOptions {
  readonly outputType?: number | undefined
}

export interface ArgMinOptions {
  readonly outputType?: number | undefined
}

export interface GreaterOptions {
}

export interface GreaterEqualOptions {
}

export interface LessOptions {
}

export interface LessEqualOptions {
}

export interface NegOptions {
}

export interface SelectOptions {
}

export interface SliceOptions {
}

export interface TransposeConvOptions {
  readonly padding?: number | undefined
  readonly strideW?: number | undefined
  readonly strideH?: number | undefined
  readonly fusedActivationFunction?: number | undefined
  readonly quantizedBiasType?: number | undefined
}

export interface ExpandDimsOptions {
}

export interface SparseToDenseOptions {
  readonly validateIndices?: boolean | undefined
}

export interface EqualOptions {
}

export interface NotEqualOptions {
}

export interface ShapeOptions {
  readonly outType?: number | undefined
}

export interface RankOptions {
}

export interface PowOptions {
}

export interface FakeQuantOptions {
  readonly min?: number | undefined
  readonly max?: number | undefined
  readonly numBits?: number | undefined
  readonly narrowRange?: boolean | undefined
}

export interface PackOptions {
  readonly valuesCount?: number | undefined
  readonly axis?: number | undefined
}

export interface LogicalOrOptions {
}

export interface OneHotOptions {
  readonly axis?: number | undefined
}

export interface AbsOptions {
}

export interface HardSwishOptions {
}

export interface LogicalAndOptions {
}

export interface LogicalNotOptions {
}

export interface UnpackOptions {
  readonly num?: number | undefined
  readonly axis?: number | undefined
}

export interface FloorDivOptions {
}

export interface SquareOptions {
}

export interface ZerosLikeOptions {
}

export interface FillOptions {
}

export interface FloorModOptions {
}

export interface RangeOptions {
}

export interface LeakyReluOptions {
  readonly alpha?: number | undefined
}

export interface SquaredDifferenceOptions {
}

export interface MirrorPadOptions {
  readonly mode?: number | undefined
}

export interface UniqueOptions {
  readonly idxOutType?: number | undefined
}

export interface ReverseV2Options {
}

export interface AddNOptions {
}

export interface GatherNdOptions {
}

export interface WhereOptions {
}

export interface ReverseSequenceOptions {
  readonly seqDim?: number | undefined
  readonly batchDim?: number | undefined
}

export interface MatrixDiagOptions {
}

export interface QuantizeOptions {
}

export interface MatrixSetDiagOptions {
}

export interface IfOptions {
  readonly thenSubgraphIndex?: number | undefined
  readonly elseSubgraphIndex?: number | undefined
}

export interface CallOnceOptions {
  readonly initSubgraphIndex?: number | undefined
}

export interface WhileOptions {
  readonly condSubgraphIndex?: number | undefined
  readonly bodySubgraphIndex?: number | undefined
}

export interface NonMaxSuppressionV4Options {
}

export interface NonMaxSuppressionV5Options {
}

export interface ScatterNdOptions {
}

export interface SelectV2Options {
}

export interface DensifyOptions {
}

export interface SegmentSumOptions {
}

export interface BatchMatMulOptions {
  readonly adjX?: boolean | undefined
  readonly adjY?: boolean | undefined
  readonly asymmetricQuantizeInputs?: boolean | undefined
}

export interface CumsumOptions {
  readonly exclusive?: boolean | undefined
  readonly reverse?: boolean | undefined
}

export interface BroadcastToOptions {
}

export interface Rfft2dOptions {
}

export interface HashtableOptions {
  readonly tableId?: number | undefined
  readonly keyDtype?: number | undefined
  readonly valueDtype?: number | undefined
}

export interface HashtableFindOptions {
}

export interface HashtableImportOptions {
}

export interface HashtableSizeOptions {
}

export interface VarHandleOptions {
  readonly container?: string | undefined
  readonly sharedName?: string | undefined
}

export interface ReadVariableOptions {
}

export interface AssignVariableOptions {
}

export interface RandomOptions {
  readonly seed?: bigint | undefined
  readonly seed2?: bigint | undefined
}

export interface BucketizeOptions {
  readonly boundaries?: Float32Array | undefined
}

export interface GeluOptions {
  readonly approximate?: boolean | undefined
}

export interface DynamicUpdateSliceOptions {
}

export interface UnsortedSegmentProdOptions {
}

export interface UnsortedSegmentMaxOptions {
}

export interface UnsortedSegmentSumOptions {
}

export interface ATan2Options {
}

export interface UnsortedSegmentMinOptions {
}

export interface SignOptions {
}

export interface BitcastOptions {
}

export interface BitwiseXorOptions {
}

export interface RightShiftOptions {
}

export interface DilateOptions {
}

export interface ReduceWindowOptions {
  readonly reduceFunction?: number | undefined
}

export interface OperatorCode {
  readonly deprecatedBuiltinCode?: number | undefined
  readonly customCode?: string | undefined
  readonly version?: number | undefined
  readonly builtinCode?: number | undefined
}

export interface StableHLOCompositeOptions {
  readonly name?: string | undefined
  readonly decompositionSubgraphIndex?: number | undefined
  readonly compositeAttributes?: Uint8Array | undefined
  readonly compositeAttributesFormat?: number | undefined
  readonly version?: number | undefined
}

export interface StablehloShiftLeftOptions {
}

export interface Operator {
  readonly opcodeIndex?: number | undefined
  readonly inputs?: Int32Array | undefined
  readonly outputs?: Int32Array | undefined
  readonly builtinOptionsType?: number | undefined
  readonly builtinOptions?: object | undefined
  readonly customOptions?: Uint8Array | undefined
  readonly customOptionsFormat?: number | undefined
  readonly mutatingVariableInputs?: Uint8Array | undefined
  readonly intermediates?: Int32Array | undefined
  readonly largeCustomOptionsOffset?: bigint | undefined
  readonly largeCustomOptionsSize?: bigint | undefined
  readonly builtinOptions2Type?: number | undefined
  readonly builtinOptions2?: object | undefined
  readonly debugMetadataIndex?: number | undefined
}

export interface SubGraph {
  readonly tensors?: readonly Tensor[] | undefined
  readonly inputs?: Int32Array | undefined
  readonly outputs?: Int32Array | undefined
  readonly operators?: readonly Operator[] | undefined
  readonly name?: string | undefined
  readonly debugMetadataIndex?: number | undefined
}

export interface Buffer {
  readonly data?: Uint8Array | undefined
  readonly offset?: bigint | undefined
  readonly size?: bigint | undefined
}

export interface ExternalBufferGroup {
  readonly name?: string | undefined
}

export interface ExternalBuffer {
  readonly id?: number | undefined
  readonly group?: number | undefined
  readonly offset?: bigint | undefined
  readonly length?: bigint | undefined
  readonly packing?: string | undefined
}

export interface Metadata {
  readonly name?: string | undefined
  readonly buffer?: number | undefined
}

export interface TensorMap {
  readonly name?: string | undefined
  readonly tensorIndex?: number | undefined
}

export interface SignatureDef {
  readonly inputs?: readonly TensorMap[] | undefined
  readonly outputs?: readonly TensorMap[] | undefined
  readonly signatureKey?: string | undefined
  readonly subgraphIndex?: number | undefined
}

export interface Model {
  readonly version?: number | undefined
  readonly operatorCodes?: readonly OperatorCode[] | undefined
  readonly subgraphs?: readonly SubGraph[] | undefined
  readonly description?: string | undefined
  readonly buffers?: readonly Buffer[] | undefined
  readonly metadataBuffer?: Int32Array | undefined
  readonly metadata?: readonly Metadata[] | undefined
  readonly signatureDefs?: readonly SignatureDef[] | undefined
  readonly externalBufferGroups?: readonly ExternalBufferGroup[] | undefined
  readonly externalBuffers?: readonly ExternalBuffer[] | undefined
}

/** The TypeScript type of each table, by name. */
export interface Tables {
  CustomQuantization: CustomQuantization
  BlockwiseQuantization: BlockwiseQuantization
  MultiAxisQuantization: MultiAxisQuantization
  QuantizationParameters: QuantizationParameters
  Int32Vector: Int32Vector
  Uint16Vector: Uint16Vector
  Uint8Vector: Uint8Vector
  DimensionMetadata: DimensionMetadata
  SparsityParameters: SparsityParameters
  VariantSubType: VariantSubType
  Tensor: Tensor
  StablehloGatherOptions: StablehloGatherOptions
  StablehloTransposeOptions: StablehloTransposeOptions
  StablehloDotGeneralOptions: StablehloDotGeneralOptions
  StablehloReduceWindowOptions: StablehloReduceWindowOptions
  StablehloWhileOptions: StablehloWhileOptions
  StablehloSortOptions: StablehloSortOptions
  StablehloConcatenateOptions: StablehloConcatenateOptions
  StablehloBroadcastInDimOptions: StablehloBroadcastInDimOptions
  StablehloCompareOptions: StablehloCompareOptions
  StablehloDynamicSliceOptions: StablehloDynamicSliceOptions
  StablehloPadOptions: StablehloPadOptions
  StablehloIotaOptions: StablehloIotaOptions
  StablehloCustomCallOptions: StablehloCustomCallOptions
  StablehloReduceOptions: StablehloReduceOptions
  StablehloSliceOptions: StablehloSliceOptions
  StablehloConvolutionOptions: StablehloConvolutionOptions
  StablehloScatterOptions: StablehloScatterOptions
  StablehloCaseOptions: StablehloCaseOptions
  StablehloRngBitGeneratorOptions: StablehloRngBitGeneratorOptions
  Conv2DOptions: Conv2DOptions
  Conv3DOptions: Conv3DOptions
  Pool2DOptions: Pool2DOptions
  DepthwiseConv2DOptions: DepthwiseConv2DOptions
  ConcatEmbeddingsOptions: ConcatEmbeddingsOptions
  LSHProjectionOptions: LSHProjectionOptions
  SVDFOptions: SVDFOptions
  RNNOptions: RNNOptions
  SequenceRNNOptions: SequenceRNNOptions
  BidirectionalSequenceRNNOptions: BidirectionalSequenceRNNOptions
  FullyConnectedOptions: FullyConnectedOptions
  SoftmaxOptions: SoftmaxOptions
  ConcatenationOptions: ConcatenationOptions
  AddOptions: AddOptions
  MulOptions: MulOptions
  L2NormOptions: L2NormOptions
  LocalResponseNormalizationOptions: LocalResponseNormalizationOptions
  LSTMOptions: LSTMOptions
  UnidirectionalSequenceLSTMOptions: UnidirectionalSequenceLSTMOptions
  BidirectionalSequenceLSTMOptions: BidirectionalSequenceLSTMOptions
  ResizeBilinearOptions: ResizeBilinearOptions
  ResizeNearestNeighborOptions: ResizeNearestNeighborOptions
  CallOptions: CallOptions
  PadOptions: PadOptions
  PadV2Options: PadV2Options
  ReshapeOptions: ReshapeOptions
  SpaceToBatchNDOptions: SpaceToBatchNDOptions
  BatchToSpaceNDOptions: BatchToSpaceNDOptions
  SkipGramOptions: SkipGramOptions
  SpaceToDepthOptions: SpaceToDepthOptions
  DepthToSpaceOptions: DepthToSpaceOptions
  SubOptions: SubOptions
  DivOptions: DivOptions
  TopKV2Options: TopKV2Options
  EmbeddingLookupSparseOptions: EmbeddingLookupSparseOptions
  GatherOptions: GatherOptions
  TransposeOptions: TransposeOptions
  ExpOptions: ExpOptions
  CosOptions: CosOptions
  ReducerOptions: ReducerOptions
  SqueezeOptions: SqueezeOptions
  SplitOptions: SplitOptions
  SplitVOptions: SplitVOptions
  StridedSliceOptions: StridedSliceOptions
  LogSoftmaxOptions: LogSoftmaxOptions
  CastOptions: CastOptions
  DequantizeOptions: DequantizeOptions
  MaximumMinimumOptions: MaximumMinimumOptions
  TileOptions: TileOptions
  ArgMaxOptions: ArgMaxOptions
  ArgMinOptions: ArgMinOptions
  GreaterOptions: GreaterOptions
  GreaterEqualOptions: GreaterEqualOptions
  LessOptions: LessOptions
  LessEqualOptions: LessEqualOptions
  NegOptions: NegOptions
  SelectOptions: SelectOptions
  SliceOptions: SliceOptions
  TransposeConvOptions: TransposeConvOptions
  ExpandDimsOptions: ExpandDimsOptions
  SparseToDenseOptions: SparseToDenseOptions
  EqualOptions: EqualOptions
  NotEqualOptions: NotEqualOptions
  ShapeOptions: ShapeOptions
  RankOptions: RankOptions
  PowOptions: PowOptions
  FakeQuantOptions: FakeQuantOptions
  PackOptions: PackOptions
  LogicalOrOptions: LogicalOrOptions
  OneHotOptions: OneHotOptions
  AbsOptions: AbsOptions
  HardSwishOptions: HardSwishOptions
  LogicalAndOptions: LogicalAndOptions
  LogicalNotOptions: LogicalNotOptions
  UnpackOptions: UnpackOptions
  FloorDivOptions: FloorDivOptions
  SquareOptions: SquareOptions
  ZerosLikeOptions: ZerosLikeOptions
  FillOptions: FillOptions
  FloorModOptions: FloorModOptions
  RangeOptions: RangeOptions
  LeakyReluOptions: LeakyReluOptions
  SquaredDifferenceOptions: SquaredDifferenceOptions
  MirrorPadOptions: MirrorPadOptions
  UniqueOptions: UniqueOptions
  ReverseV2Options: ReverseV2Options
  AddNOptions: AddNOptions
  GatherNdOptions: GatherNdOptions
  WhereOptions: WhereOptions
  ReverseSequenceOptions: ReverseSequenceOptions
  MatrixDiagOptions: MatrixDiagOptions
  QuantizeOptions: QuantizeOptions
  MatrixSetDiagOptions: MatrixSetDiagOptions
  IfOptions: IfOptions
  CallOnceOptions: CallOnceOptions
  WhileOptions: WhileOptions
  NonMaxSuppressionV4Options: NonMaxSuppressionV4Options
  NonMaxSuppressionV5Options: NonMaxSuppressionV5Options
  ScatterNdOptions: ScatterNdOptions
  SelectV2Options: SelectV2Options
  DensifyOptions: DensifyOptions
  SegmentSumOptions: SegmentSumOptions
  BatchMatMulOptions: BatchMatMulOptions
  CumsumOptions: CumsumOptions
  BroadcastToOptions: BroadcastToOptions
  Rfft2dOptions: Rfft2dOptions
  HashtableOptions: HashtableOptions
  HashtableFindOptions: HashtableFindOptions
  HashtableImportOptions: HashtableImportOptions
  HashtableSizeOptions: HashtableSizeOptions
  VarHandleOptions: VarHandleOptions
  ReadVariableOptions: ReadVariableOptions
  AssignVariableOptions: AssignVariableOptions
  RandomOptions: RandomOptions
  BucketizeOptions: BucketizeOptions
  GeluOptions: GeluOptions
  DynamicUpdateSliceOptions: DynamicUpdateSliceOptions
  UnsortedSegmentProdOptions: UnsortedSegmentProdOptions
  UnsortedSegmentMaxOptions: UnsortedSegmentMaxOptions
  UnsortedSegmentSumOptions: UnsortedSegmentSumOptions
  ATan2Options: ATan2Options
  UnsortedSegmentMinOptions: UnsortedSegmentMinOptions
  SignOptions: SignOptions
  BitcastOptions: BitcastOptions
  BitwiseXorOptions: BitwiseXorOptions
  RightShiftOptions: RightShiftOptions
  DilateOptions: DilateOptions
  ReduceWindowOptions: ReduceWindowOptions
  OperatorCode: OperatorCode
  StableHLOCompositeOptions: StableHLOCompositeOptions
  StablehloShiftLeftOptions: StablehloShiftLeftOptions
  Operator: Operator
  SubGraph: SubGraph
  Buffer: Buffer
  ExternalBufferGroup: ExternalBufferGroup
  ExternalBuffer: ExternalBuffer
  Metadata: Metadata
  TensorMap: TensorMap
  SignatureDef: SignatureDef
  Model: Model
}
