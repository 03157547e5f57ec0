"""The transformer block (Dosovitskiy et al. 2021), which can also return the attention of chosen rows.

Letters: B crops, N tokens, D width, R rows of interest.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below this many tokens one explicit softmax is faster on a CPU than fused attention plus a second softmax for the
# rows.
_EXPLICIT_UP_TO = 96


def learns_in_bf16_on_cpu(x: Tensor) -> bool:
    """Whether gradients flow through `x` in bfloat16 on a CPU, where some of PyTorch's kernels for them are very
    slow."""
    return x.dtype == torch.bfloat16 and x.requires_grad and x.device.type == "cpu"


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) from (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rows: slice | None = None) -> tuple[Tensor, Tensor | None]:
        """Output (B, N, D) and, if `rows` are given, their attention (B, heads, R, N) in at least float32."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # (B, heads, N, d)
        if rows is not None and n <= _EXPLICIT_UP_TO and x.device.type == "cpu":
            attention = self._softmax(q, k)
            out, attended = attention.to(v.dtype) @ v, attention[:, :, rows]
        elif rows is None and learns_in_bf16_on_cpu(q):
            # The gradient of PyTorch's fused attention takes three times as long there.
            attention = ((q * self.scale) @ k.transpose(-1, -2)).float().softmax(-1)
            out, attended = attention.to(v.dtype) @ v, None
        else:
            out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
            attended = None if rows is None else self._softmax(q[:, :, rows], k)
        return self.proj(out.transpose(1, 2).reshape(b, n, d)), attended

    def _softmax(self, q: Tensor, k: Tensor) -> Tensor:
        # In float32 even if weights or training are in bf16: rounding here would change which cells are selected.
        kind = q.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            return ((q.float() * self.scale) @ k.float().transpose(-1, -2)).softmax(-1)


class DropPath(nn.Module):
    """Drops a residual branch of whole samples in training (Huang et al. 2016, stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """`x` with some samples zeroed and the others scaled to keep the mean."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, width * mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rows: slice | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, N, D), and the attention of `rows` as from `Attention`."""
        out, attended = self.attn(self.norm1(x), rows)
        x = x + self.drop_path(out)
        return x + self.drop_path(self.mlp(self.norm2(x))), attended
