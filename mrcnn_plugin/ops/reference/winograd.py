"""Winograd's minimal filtering F(4x4, 3x3) written out (Lavin and Gray, arXiv 1509.09308, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Where the polynomials are evaluated, beside infinity.
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)


def input_matrix() -> Tensor:
    """B^T, (6, 6) float64: rows are the coefficients, from the lowest, of the products of (x - p_j), j != i;
    the last row is the product of all."""
    rows = []
    for left_out in (*range(len(POINTS)), None):
        polynomial = torch.ones(1, dtype=torch.float64)
        for j, point in enumerate(POINTS):
            if j != left_out:
                # Times (x - point).
                polynomial = F.pad(polynomial, (1, 0)) - point * F.pad(polynomial, (0, 1))
        rows.append(F.pad(polynomial, (0, 6 - len(polynomial))))
    return torch.stack(rows)


def _powers(count: int) -> Tensor:
    """(6, count) float64: powers 0 to count - 1 of the points; of infinity the highest alone."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    finite = torch.stack([points**k for k in range(count)], dim=1)
    infinity = torch.zeros(1, count, dtype=torch.float64)
    infinity[0, -1] = 1
    return torch.cat([finite, infinity])


def weight_matrix() -> Tensor:
    """G, (6, 3) float64: powers of each point, over the product of its distances from the others."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    distances = points[:, None] - points + torch.eye(len(POINTS), dtype=torch.float64)
    scale = torch.cat([distances.prod(dim=1), torch.ones(1, dtype=torch.float64)])
    return _powers(3) / scale[:, None]


def output_matrix() -> Tensor:
    """A^T, (4, 6) float64."""
    return _powers(4).T


def transform_weight(weight: Tensor) -> Tensor:
    """(C', C, 3, 3) -> (36, C, C'): G g G^T; see `mrcnn_plugin.ops.winograd_weight`."""
    g = weight_matrix().to(weight.device)
    # Row 6i + j of the Kronecker product is what g_i and g_j make of the nine numbers.
    both = torch.kron(g, g)  # (36, 9)
    columns = weight.double().flatten(2).permute(2, 1, 0)  # (9, C, C')
    return (both @ columns.flatten(1)).view(36, *columns.shape[1:]).to(weight.dtype)


def transform_input(input: Tensor) -> Tensor:
    """(N, C, H, W) -> (6, 6, N, rows, columns, C): B^T d B of each tile."""
    height, width = input.shape[2:]
    b = input_matrix().to(input)
    # A pixel of padding, and on the right and at the bottom whole tiles.
    padded = F.pad(input, (1, 1 + -width % 4, 1, 1 + -height % 4))
    tiles = padded.unfold(2, 6, 4).unfold(3, 6, 4)  # (N, C, rows, columns, 6, 6)
    return torch.einsum("ia,ncyxab,jb->ijnyxc", b, tiles, b)


def weight_gradient(input: Tensor, grad: Tensor) -> Tensor:
    """See `mrcnn_plugin.ops.winograd_weight_gradient`."""
    height, width = input.shape[2:]
    a, g = output_matrix().to(input), weight_matrix().to(input)
    tiles = F.pad(grad, (0, -width % 4, 0, -height % 4)).unfold(2, 4, 4).unfold(3, 4, 4)
    spread = torch.einsum("ai,noyxab,bj->ijnyxo", a, tiles, a)
    products = torch.einsum("ijnyxo,ijnyxc->ijoc", spread, transform_input(input))
    weight = torch.einsum("ia,ijoc,jb->ocab", g, products, g)
    return weight.contiguous(memory_format=torch.channels_last)


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    """See `mrcnn_plugin.ops.winograd_conv2d`."""
    height, width = input.shape[2:]
    a = output_matrix().to(input)
    transformed = transform_input(input)
    products = torch.einsum("ijnyxc,ijco->ijnyxo", transformed, weight.unflatten(0, (6, 6)))
    pixels = torch.einsum("ai,ijnyxo,bj->noyaxb", a, products, a).flatten(2, 3).flatten(3, 4)
    result = pixels[:, :, :height, :width]
    if bias is not None:
        result = result + bias[:, None, None]
    if residual is not None:
        result = result + residual
    result = result.relu() if relu else result
    return result.contiguous(memory_format=torch.channels_last)
