/** Writes an untrained residual network: `node --conditions=source --import tsx examples/cifar10/build.ts 8 resnet8.onnx`. */
import { writeFileSync } from 'node:fs'
import { buildResNet } from './resnet.ts'

const [depth = '8', path = `resnet${depth}.onnx`] = process.argv.slice(2)
writeFileSync(path, buildResNet(Number(depth)))
