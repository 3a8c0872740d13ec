#!/bin/sh
# torch 2.13.0 (CPU), seen on 2026-11-30: Adam(fused=True) takes a gradient in the order of memory, whatever its strides
# are, and makes a wrong step without a word. The loop over tensors (fused=False) makes the right one.
#
# Expected: the same step for both, or an error, because the documentation calls fused "a faster implementation", and a
# gradient may have any strides (`parameter.grad = torch.autograd.grad(...)` of a product with a transposed matrix has
# others than its parameter; backward() copies such a gradient first, so training by backward() alone is not hit).
# Output seen:
#     contiguous gradient: largest difference 0.00
#     transposed gradient: largest difference 0.40
#     channels_last parameter, contiguous gradient: largest difference 0.40
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch

draw = torch.Generator().manual_seed(0)


def steps(start, gradient, fused):
    parameter = torch.nn.Parameter(start.clone(memory_format=torch.preserve_format))
    optimizer = torch.optim.Adam([parameter], lr=0.1, fused=fused)
    for _ in range(2):
        parameter.grad = gradient
        optimizer.step()
    return parameter.detach()


picture = torch.zeros(2, 3, 4, 4)
cases = {
    "contiguous gradient": (torch.zeros(4, 6), torch.randn(4, 6, generator=draw)),
    "transposed gradient": (torch.zeros(4, 6), torch.randn(6, 4, generator=draw).t()),
    "channels_last parameter, contiguous gradient": (
        picture.to(memory_format=torch.channels_last),
        torch.randn(2, 3, 4, 4, generator=draw),
    ),
}
found = []
for name, (start, gradient) in cases.items():
    difference = float((steps(start, gradient, True) - steps(start, gradient, False)).abs().max())
    print(f"{name}: largest difference {difference:.2f}")
    found.append(difference)
assert found[0] < 1e-6 and min(found[1:]) > 0.1, "the behaviour has changed"
PYTHON
