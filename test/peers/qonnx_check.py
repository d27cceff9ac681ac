"""Runs a QONNX file through qonnx's clean-up and its own executor: qonnx_check.py MODEL INPUT.npy OUT.npy"""
import sys
import numpy as np
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.util.cleanup import cleanup_model

model = cleanup_model(ModelWrapper(sys.argv[1]))
x = np.load(sys.argv[2]).astype(np.float32)
name, out = model.graph.input[0].name, model.graph.output[0].name
y = [execute_onnx(model, {name: x[i : i + 1]})[out] for i in range(len(x))]
np.save(sys.argv[3], np.concatenate(y).astype(np.float32))
