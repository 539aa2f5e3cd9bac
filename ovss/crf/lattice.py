"""Gaussian filtering in many dimensions on the permutohedral lattice (Adams, Baek, Davis 2010).

A Gaussian over N points of dimension d costs O(N^2). The lattice does it in O(N d): each point
hands its value to the d + 1 corners of the simplex it lies in (*splat*), the values are blurred
along the d + 1 axes of the lattice with the kernel 1/2 1 1/2 (*blur*), and each point reads its
corners again with the weights it wrote them with (*slice*). All three are products with a sparse
matrix that is known once the points are, and `torch.nn.functional.embedding_bag` is the fastest
such product that PyTorch has for rows of 2 to 200 values.

The arithmetic (float32, its order, rounding half to even) is that of the densecrf library of
Kraehenbuehl & Koltun that pydensecrf wraps, so a point on the border of two simplices falls to the
same side and labels agree pixel by pixel.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovss.crf.sparse import Bags, chunks, limit_bags
from ovss.crf.threads import SINGLE_THREADED, ThreadPool

# Points embedded at a time on a CPU: the temporaries of 16384 points stay in a core's L2 cache.
_CHUNK = 16384
_MAX_KEY = 2**62


class Lattice(NamedTuple):
    """A Gaussian kernel K over N points, as the sparse factors that are applied in turn."""

    to_vertices: tuple[Bags, ...]  # splat and blur
    to_points: Bags  # slice: d + 1 entries a point

    def __call__(self, values: Tensor) -> Tensor:
        """Filter `(N, C)` float32, contiguous: `K @ values`."""
        return self.to_points(self.at_vertices(values))

    def at_vertices(self, values: Tensor, pool: ThreadPool = SINGLE_THREADED) -> Tensor:
        """Splat and blur `(N, C)` values to the lattice, `(M + 1, C)`."""
        for factor in self.to_vertices:
            bands = factor.split(pool.size)
            if len(bands) == 1:
                values = factor(values)
            else:
                values = torch.cat(pool.map(partial(Bags.__call__, table=values), bands))
        return values

    def at_points(self, vertices: Tensor, part: slice) -> Tensor:
        """Slice at some points only: rows `part` of K @ values, from what `at_vertices` gave."""
        rows, offsets, weight = self.to_points
        corners = len(rows) // (len(offsets) - 1)
        entries = slice(part.start * corners, part.stop * corners)
        count = part.stop - part.start
        return Bags(rows[entries], offsets[: count + 1], weight[entries])(vertices)


def gaussian_kernel(
    features: Tensor,
    group: Tensor | None = None,
    scale: float = 1.0,
    pool: ThreadPool = SINGLE_THREADED,
) -> Lattice:
    """Build `scale * D^-1/2 K D^-1/2`, K the Gaussian kernel between points, D its row sums.

    This is pydensecrf's `NORMALIZE_SYMMETRIC`; a point's message to itself stays in.

    Args:
        features: `(d, N)` float32, the points in units of the kernel's standard deviation.
        group: `(N,)` int64 number of the group (the photo) each point belongs to; points of
            different groups do not see each other. None: all belong together.
        scale: factor on the whole kernel (the compatibility of a Potts model).
        pool: threads to share the work.

    Raises:
        ValueError: if the points spread over so many standard deviations that the lattice cannot
            be addressed with 62 bits.
    """
    d, n = features.shape
    # Of a large photo each of these takes hundreds of megabytes: none stays longer than it serves.
    quotient, rank, barycentric = _embed(features, pool)
    keys, place, span = _addresses(quotient, rank, group, pool)
    del quotient, rank
    corners, splat, known = _numbers(keys, span, barycentric, pool)
    del keys
    # The library's constant. It cancels in D^-1/2 K D^-1/2 but for rounding and the 1e-20.
    alpha = 1.0 / (1.0 + 2.0**-d)
    read = Bags(
        corners,
        torch.arange(0, (d + 1) * n + 1, d + 1, dtype=torch.int32, device=features.device),
        barycentric.T.contiguous().mul_(alpha).view(-1),
    )
    del barycentric
    blur = _blur_matrices(known, place, span, pool)

    kernel = Lattice((*limit_bags(splat), *blur), read)
    degree = kernel.to_points(kernel.at_vertices(features.new_ones(n, 1), pool)).squeeze(1)
    norm = 1.0 / torch.sqrt(degree + 1e-20)
    splat.weight.mul_(norm.index_select(0, splat.rows))
    read.weight.view(n, d + 1).mul_((norm * scale)[:, None])
    return kernel


def _embed(features: Tensor, pool: ThreadPool) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex of each point and the point's weights in it (Adams et al., section 3).

    Returns:
        All `(d + 1, N)`: the coordinates over d + 1 of the simplex' corner with remainder 0; the
        rank of each coordinate, int8, 0 for the one with the largest residual; the weight of the
        corner with remainder r in row r.
    """
    d, n = features.shape
    # Standard deviation of the blur in lattice units times the diagonal of the elevation matrix.
    deviation = float(np.float32(math.sqrt(2.0 / 3.0) * (d + 1)))
    scale = [1.0 / math.sqrt((i + 2) * (i + 1)) * deviation for i in range(d)]
    up = torch.tensor(scale, dtype=torch.float32, device=features.device)[:, None]
    quotient = features.new_empty(d + 1, n)
    rank = torch.empty(d + 1, n, dtype=torch.int8, device=features.device)
    barycentric = features.new_empty(d + 1, n)

    def embed(part: slice) -> None:
        _embed_part(features[:, part] * up, quotient[:, part], rank[:, part], barycentric[:, part])

    pool.map(embed, chunks(n, features.device, _CHUNK))
    return quotient, rank, barycentric


def _embed_part(scaled: Tensor, quotient: Tensor, rank: Tensor, barycentric: Tensor) -> None:
    d = len(scaled)
    down = float(np.float32(1.0 / (d + 1)))

    # Elevate to the hyperplane of coordinate sum 0. Products and sums stay apart, as a fused
    # multiply-add would round once where the library rounds twice.
    elevated = scaled.new_empty(d + 1, scaled.shape[1])
    total = torch.zeros_like(scaled[0])
    for j in range(d, 0, -1):
        torch.sub(total, scaled[j - 1] * float(j), out=elevated[j])
        total = total + scaled[j - 1]
    elevated[0] = total

    # The nearest point with all coordinates divisible by d + 1. It need not lie in the hyperplane.
    nearest = torch.round(elevated * down)
    excess = nearest.sum(0).to(torch.int8)
    residual = elevated - nearest * float(d + 1)

    # Rank the residuals, largest first; the earlier coordinate wins a tie on the right of "<" only.
    rank.zero_()
    for i in range(d):
        less = residual[i] < residual[i + 1 :]
        rank[i] += less.sum(0, dtype=torch.int8)
        rank[i + 1 :] += ~less

    # Where it is off the hyperplane, step back along the coordinates with the extreme residuals.
    rank += excess
    step = (rank < 0).to(torch.int8) - (rank > d).to(torch.int8)
    rank += step * (d + 1)
    torch.add(nearest, step, out=quotient)

    # In descending order of v, the weight of corner r is v[d - r] - v[d - r + 1].
    v = (elevated - quotient * float(d + 1)) * down
    for turn in range(d + 1):  # an odd-even transposition sort: torch.sort is slow along 6 rows
        first, second = v[turn % 2 : -1 : 2], v[turn % 2 + 1 :: 2]
        larger = torch.maximum(first, second)
        torch.minimum(first, second, out=second)
        first.copy_(larger)
    barycentric[0] = v[d] + (1.0 - v[0])
    torch.sub(v[:d].flip(0), v[1:].flip(0), out=barycentric[1:])


def _addresses(
    quotient: Tensor, rank: Tensor, group: Tensor | None, pool: ThreadPool
) -> tuple[Tensor, list[int], int]:
    """A number for each corner that no other corner of its remainder has.

    A corner with remainder r has coordinates `(d + 1) * q + r`, so r and the quotients q name it.
    The quotients of its first d coordinates (the last follows from them) are the digits of one
    integer, with room for a step beyond either end so that a neighbour's key is never another's.

    Returns:
        The keys `(d + 1, N)`, what each digit is multiplied with, and how many keys there can be.
    """
    d, n = len(rank) - 1, rank.shape[1]
    device = rank.device
    low, high = quotient[:d].amin(1) - 2, quotient[:d].amax(1) + 1
    sizes = [int(size) for size in (high - low + 1).tolist()]
    groups = 1 if group is None else int(group[-1]) + 1
    place = [math.prod(sizes[i + 1 :]) for i in range(d)]
    span = math.prod(sizes) * groups
    if span * (d + 1) > _MAX_KEY:
        raise ValueError(
            f"Expected the photo to be at most a few thousand standard deviations of the kernel "
            f"wide, but got a lattice of {' x '.join(map(str, sizes))} cells: raise the CRF's sxy "
            f"or srgb"
        )

    # 32 bits sort twice as fast.
    dtype = torch.int32 if span < 2**31 else torch.int64
    places = torch.tensor(place, device=device).to(dtype)[:, None]
    keys = torch.empty(d + 1, n, dtype=dtype, device=device)

    def address(part: slice) -> None:
        digits = (quotient[:d, part] - low[:, None]).to(dtype)
        keys[0, part] = (digits * places).sum(0, dtype=dtype)
        if group is not None:
            keys[0, part] += (group[part] * math.prod(sizes)).to(dtype)
        # Going to corner r, the coordinate of rank d + 1 - r steps down a cell.
        at_rank = torch.zeros_like(keys[:, part])
        at_rank.scatter_(0, rank[:d, part].to(torch.int64), places.expand_as(digits))
        for r in range(1, d + 1):
            torch.sub(keys[r - 1, part], at_rank[d + 1 - r], out=keys[r, part])

    pool.map(address, chunks(n, device, _CHUNK))
    return keys, place, span


def _numbers(
    keys: Tensor, span: int, barycentric: Tensor, pool: ThreadPool
) -> tuple[Tensor, Bags, Tensor]:
    """Number the distinct corners of all simplices.

    Returns:
        The corners of each point, `(N * (d + 1),)` int32; the splat matrix; the key of each of the
        M vertices, ascending. A last vertex, an empty bag that stays zero, is what a vertex without
        a neighbour reads.
    """
    corners, n = keys.shape
    device = keys.device
    vertex = torch.empty(n, corners, dtype=torch.int32, device=device)
    rows = torch.empty(corners * n, dtype=torch.int32, device=device)
    weight = barycentric.new_empty(corners * n)

    def number(r: int) -> tuple[Tensor, Tensor]:
        ordered, order = torch.sort(keys[r], stable=True)
        is_first = torch.ones(n, dtype=torch.bool, device=device)
        torch.ne(ordered[1:], ordered[:-1], out=is_first[1:])
        vertex[:, r].scatter_(0, order, is_first.cumsum(0, dtype=torch.int32) - 1)
        rows[r * n : (r + 1) * n] = order
        torch.index_select(barycentric[r], 0, order, out=weight[r * n : (r + 1) * n])
        start = is_first.nonzero().squeeze(1)
        return ordered[start].to(torch.int64) + r * span, (start + r * n).to(torch.int32)

    known, starts = zip(*pool.map(number, range(corners)), strict=True)
    counts = torch.tensor([0, *map(len, known)], dtype=torch.int32, device=device)
    vertex += counts.cumsum(0, dtype=torch.int32)[:-1]
    end = torch.full((2,), corners * n, dtype=torch.int32, device=device)
    splat = Bags(rows, torch.cat([*starts, end]), weight)
    return vertex.view(-1), splat, torch.cat(known)


def _blur_matrices(known: Tensor, place: list[int], span: int, pool: ThreadPool) -> list[Bags]:
    """Build the blur of each axis, given the keys `remainder * span + digits`, ascending.

    One neighbour along axis j is one less in every coordinate but j, which is d more. So its
    remainder is one less, and its quotients are the same but for one more in j; from remainder 0
    it is d, and every quotient but j's is one less.
    """
    d, m = len(place), len(known)
    device = known.device
    before = torch.where(known < span, known + (d * span - sum(place)), known - span)
    own = torch.arange(m + 1, dtype=torch.int32, device=device)
    offsets = torch.arange(0, 3 * m + 4, 3, dtype=torch.int32, device=device)
    taps = torch.tensor([1.0, 0.5, 0.5], dtype=torch.float32, device=device).repeat(m + 1)

    def along(j: int) -> Bags:
        wanted = before + place[j] if j < d else before
        position = _search_sorted(known, wanted).clamp_(max=m - 1)
        found = known.index_select(0, position) == wanted
        rows = torch.full((m + 1, 3), m, dtype=torch.int32, device=device)
        rows[:, 0] = own
        rows[:m, 1] = torch.where(found, position.to(torch.int32), m)
        rows[:, 2].scatter_(0, rows[:m, 1].to(torch.int64), own[:m])
        rows[m, 2] = m  # vertices without a neighbour all wrote here
        return Bags(rows.view(-1), offsets, taps)

    return pool.map(along, range(d + 1))


def _search_sorted(known: Tensor, wanted: Tensor) -> Tensor:
    if known.device.type != "cpu":
        return torch.searchsorted(known, wanted)
    # NumPy's search begins where the last one ended, and `wanted` ascends nearly throughout.
    return torch.from_numpy(np.searchsorted(known.numpy(), wanted.numpy()))
