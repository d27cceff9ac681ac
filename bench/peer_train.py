"""Training images per second of MLPerf Tiny's ResNet-8 in PyTorch: the peer of `pnpm bench train`.

Float, and W4A4 with learned step sizes (LSQ) for activations and per-channel weights; cross-entropy, Adam, and the
decoupled orthogonality penalty in the quantized one.
"""
import sys
import time

import torch
import torch.nn.functional as F

mode, batch, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
torch.manual_seed(1)
quantized = mode == "w4a4"


class FakeQuant(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, lo, hi):
        v = x / scale
        c = v.clamp(lo, hi)
        r = c.round()
        ctx.save_for_backward(v, c, r, scale)
        return r * scale

    @staticmethod
    def backward(ctx, dy):
        v, c, r, scale = ctx.saved_tensors
        inside = (v == c).to(dy.dtype)
        ds = dy * (r - inside * v)
        ds = ds.sum() if scale.dim() == 0 else ds.sum(dim=tuple(range(1, ds.dim())), keepdim=True)
        return dy * inside, ds, None, None


class Conv(torch.nn.Module):
    def __init__(self, i, o, k, stride, bits):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(o, i, k, k) / (i * k * k) ** 0.5)
        self.bias = torch.nn.Parameter(torch.zeros(o))
        self.hi = 2 ** (bits - 1) - 1
        self.scale = torch.nn.Parameter(torch.full((o, 1, 1, 1), -3.0))
        self.stride, self.pad = stride, k // 2

    def forward(self, x):
        w = FakeQuant.apply(self.weight, self.scale.exp(), -self.hi, self.hi) if quantized else self.weight
        return F.conv2d(x, w, self.bias, self.stride, self.pad)


class Quant(torch.nn.Module):
    def __init__(self, lo, hi):
        super().__init__()
        self.scale, self.lo, self.hi = torch.nn.Parameter(torch.tensor(-2.0)), lo, hi

    def forward(self, x):
        return FakeQuant.apply(x, self.scale.exp(), self.lo, self.hi) if quantized else (F.relu(x) if self.lo == 0 else x)


class Block(torch.nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.a, self.b = Conv(i, o, 3, stride, 4), Conv(o, o, 3, 1, 4)
        self.short = Conv(i, o, 1, stride, 4) if stride > 1 else None
        self.qa, self.qb, self.qs, self.out = Quant(0, 15), Quant(-128, 127), Quant(-128, 127), Quant(0, 15)

    def forward(self, x):
        s = x if self.short is None else self.qs(self.short(x))
        return self.out(self.qb(self.b(self.qa(self.a(x)))) + s)


class ResNet8(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.q = Conv(3, 16, 3, 1, 8), Quant(0, 15)
        self.blocks = torch.nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.blocks(self.q(self.stem(x))).mean((2, 3)))


net = ResNet8()
optimizer = torch.optim.Adam(net.parameters(), 1e-4, (0.9, 0.99))
x = torch.rand(batch, 3, 32, 32)
y = torch.arange(batch) % 10
layers = [m for m in net.modules() if isinstance(m, Conv)]


def run(count):
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        if quantized:
            with torch.no_grad():
                for m in layers:
                    w = m.weight.flatten(1)
                    r = w @ w.T - torch.eye(len(w)) if w.shape[0] <= w.shape[1] else w.T @ w - torch.eye(w.shape[1])
                    g = r @ w if w.shape[0] <= w.shape[1] else w @ r
                    m.weight -= (4e-5 * g).view_as(m.weight)


for line in sys.stdin:
    start = time.perf_counter()
    run(int(line))
    print(batch * int(line) / (time.perf_counter() - start), flush=True)
