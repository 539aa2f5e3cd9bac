"""Mean-field inference in a fully connected CRF (Kraehenbuehl & Koltun 2011, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovss.crf.lattice import Lattice
from ovss.crf.sparse import chunks
from ovss.crf.threads import SINGLE_THREADED, ThreadPool

# Below this many classes a CPU's softmax along rows is several times slower than along columns.
_SHORT_ROW = 16
# Values at a time on a CPU, so that what one operation writes is in the cache for the next.
_CHUNK = 131072


def mean_field(
    log_prior: Tensor,
    kernels: Sequence[Lattice],
    iterations: int,
    pool: ThreadPool = SINGLE_THREADED,
) -> Tensor:
    """Iterate `Q <- softmax(log_prior + sum_k kernel_k(Q))` from `Q = softmax(log_prior)`.

    The Potts model charges a pixel for the mass that its neighbours give to *other* classes; as Q
    sums to 1 that is, up to a constant of the pixel, a reward for the mass on its own class.

    Args:
        log_prior: `(N, C)` float32, the negative unary potentials.
        kernels: each scaled with its compatibility.
        iterations: number of parallel updates; 0 gives the softmax of the prior.
        pool: threads to share the work.

    Returns:
        Q, `(N, C)` float32; rows sum to 1.
    """
    q = torch.empty_like(log_prior)
    _mean_field_update(q, log_prior, [], pool)
    for _ in range(iterations):
        _mean_field_update(q, log_prior, [(k, k.at_vertices(q, pool)) for k in kernels], pool)
    return q


def _mean_field_update(
    q: Tensor, log_prior: Tensor, kernels: Sequence[tuple[Lattice, Tensor]], pool: ThreadPool
) -> None:
    by_columns = q.device.type == "cpu" and q.shape[1] < _SHORT_ROW

    def update(part: slice) -> None:
        energy = log_prior[part]
        for kernel, vertices in kernels:
            energy = energy + kernel.at_points(vertices, part)
        if not by_columns:
            torch.softmax(energy, 1, out=q[part])
            return
        # Not softmax(0), whose last bits depend on how the columns fall to threads.
        columns = torch.stack(energy.unbind(1))
        columns -= columns.amax(0)
        columns.exp_()
        columns /= columns.sum(0)
        for number, column in enumerate(columns):
            q[part, number] = column

    pool.map(update, chunks(len(q), q.device, _CHUNK // q.shape[1] + 1))
