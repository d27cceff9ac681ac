"""Static quantization with onnxruntime's own tool: the peer of `pnpm bench convert`."""
import sys

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, quantize_static

model, data, out = sys.argv[1:4]
records = np.fromfile(data, dtype=np.uint8).reshape(-1, 3073)[:512, 1:].reshape(-1, 3, 32, 32)
mean = np.array([0.4914, 0.4822, 0.4465], np.float32).reshape(1, 3, 1, 1)
std = np.array([0.2471, 0.2435, 0.2616], np.float32).reshape(1, 3, 1, 1)
images = ((records.astype(np.float32) / 255 - mean) / std).astype(np.float32)
name = onnxruntime.InferenceSession(model).get_inputs()[0].name


class Reader(CalibrationDataReader):
    def __init__(self):
        self.rows = iter(images)

    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {name: row[None]}


quantize_static(model, out, Reader(), per_channel=True)
