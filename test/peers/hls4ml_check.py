"""Converts, compiles and runs a QONNX file with hls4ml: hls4ml_check.py MODEL CONFIG.json INPUT.npy OUT.npy FOLDER"""
import json
import sys
import numpy as np
import hls4ml
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model

model = cleanup_model(ModelWrapper(sys.argv[1]))
written = json.load(open(sys.argv[2]))
config = hls4ml.utils.config_from_onnx_model(model, granularity='name', backend=written['Backend'], default_precision=written['HLSConfig']['Model']['Precision'])
hls = hls4ml.converters.convert_from_onnx_model(model, output_dir=sys.argv[5], io_type=written['IOType'], backend=written['Backend'], hls_config=config)
hls.compile()
x = np.load(sys.argv[3]).astype(np.float32)
np.save(sys.argv[4], np.asarray(hls.predict(np.ascontiguousarray(x))).reshape(len(x), -1).astype(np.float32))
