"""Full-integer conversion with TensorFlow's own converter: the peer of `pnpm bench tflite`."""
import numpy as np
import tensorflow as tf

model = tf.keras.applications.MobileNetV2(weights=None, classes=1001)
random = np.random.default_rng(0)
converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([random.random((1, 224, 224, 3), np.float32)] for _ in range(100))
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.convert()
