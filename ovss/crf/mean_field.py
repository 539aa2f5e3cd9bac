"""Mean-field inference in a fully connected CRF (Kraehenbuehl & Koltun 2011, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovss.crf.lattice import Lattice, parts

# Below this many classes a CPU's softmax along rows is several times slower than along columns.
_SHORT_ROW = 16
# Pixels at a time on a CPU, so that what one operation writes is in the cache for the next.
_CHUNK = 32768


def mean_field(log_prior: Tensor, kernels: Sequence[Lattice], iterations: int) -> Tensor:
    """Iterate `Q <- softmax(log_prior + sum_k kernel_k(Q))` from `Q = softmax(log_prior)`.

    The Potts model charges a pixel for the mass that its neighbours give to *other* classes; as Q
    sums to 1 that is, up to a constant of the pixel, a reward for the mass on its own class.

    Args:
        log_prior: `(N, C)` float32, the negative unary potentials.
        kernels: each scaled with its compatibility.
        iterations: number of parallel updates; 0 gives the softmax of the prior.

    Returns:
        Q, `(N, C)` float32; rows sum to 1.
    """
    q = torch.empty_like(log_prior)
    _softmax_of_sum([log_prior], q)
    for _ in range(iterations):
        _softmax_of_sum([log_prior, *(kernel(q) for kernel in kernels)], q)
    return q


def _softmax_of_sum(terms: Sequence[Tensor], out: Tensor) -> None:
    by_columns = out.device.type == "cpu" and out.shape[1] < _SHORT_ROW
    for part in parts(len(out), out.device, _CHUNK):
        energy = terms[0][part]
        for term in terms[1:]:
            energy = energy + term[part]
        if not by_columns:
            torch.softmax(energy, 1, out=out[part])
            continue
        # Not softmax(0), whose last bits depend on how the columns fall to threads.
        columns = torch.stack(energy.unbind(1))
        columns -= columns.amax(0)
        columns.exp_()
        columns /= columns.sum(0)
        for number, column in enumerate(columns):
            out[part, number] = column
