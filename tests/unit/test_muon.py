"""Muon: orthogonal steps, and the same ones as PyTorch's."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sharpose_rt.training.muon import Muon, orthogonal
from sharpose_rt.training.world import World


@settings(max_examples=25)
@given(rows=st.integers(2, 24), columns=st.integers(2, 24), seed=st.integers(0, 999))
def test_muon_keeps_singular_vectors_and_levels_singular_values(rows, columns, seed):
    matrices = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    found = u.transpose(1, 2) @ orthogonal(matrices, 12) @ v.transpose(1, 2)
    diagonal = found.diagonal(dim1=1, dim2=2)
    assert (found - torch.diag_embed(diagonal)).abs().max() < 0.02
    assert diagonal[s > 0.02 * s.amax(1, keepdim=True)].sub(1).abs().max() < 0.35


def test_muon_moves_as_pytorchs():
    """Equal up to what bfloat16 does to theirs; matrices of several shapes, one without a gradient."""
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.empty(shape)) for shape in ((8, 24), (24, 8), (8, 24), (6, 6))] for _ in "ab")
    for a, b in zip(ours, theirs, strict=True):
        b.data = a.data.normal_().clone()
    before = [p.detach().clone() for p in ours]
    optimizers = (
        Muon(ours, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(3):
        for a, b in zip(ours[:3], theirs[:3], strict=True):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(step))
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours[3], before[3])
    for a, b, start in zip(ours[:3], theirs[:3], before[:3], strict=True):
        assert (a - b).norm() < 0.03 * (a - start).norm()


def test_processes_that_train_together_leave_out_what_none_of_them_used(monkeypatch):
    used, unused, others = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    used.grad = torch.tensor([1.0, 3.0])

    def all_reduce(tensor):  # the other process had a gradient for the third alone
        tensor[4:6] += torch.tensor([4.0, 8.0])
        tensor[8] += 1

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    World(size=2).average_gradients([used, unused, others])
    assert used.grad.tolist() == [0.5, 1.5]
    assert unused.grad is None
    assert others.grad.tolist() == [2.0, 4.0]
