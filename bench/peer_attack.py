"""PGD steps per second of an ONNX network in PyTorch: the peer of `pnpm bench attack`."""
import sys
import time

import onnx
import torch
from onnx2torch import convert

path, batch, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
model = onnx.load(path)
for value in list(model.graph.input) + list(model.graph.output):
    value.type.tensor_type.shape.dim[0].dim_param = "batch"
net = convert(model).eval()
for p in net.parameters():
    p.requires_grad_(False)
torch.manual_seed(1)
x0 = torch.rand(batch, 3, 32, 32)
labels = torch.arange(batch) % 10


def run(count):
    x = x0.clone()
    for _ in range(count):
        x.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        (g,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            x = torch.min(torch.max(x + g.sign() / 255, x0 - 8 / 255), x0 + 8 / 255).clamp(0, 1)


for line in sys.stdin:
    start = time.perf_counter()
    run(int(line))
    print(batch * int(line) / (time.perf_counter() - start), flush=True)
