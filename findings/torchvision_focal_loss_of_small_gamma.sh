#!/usr/bin/env bash
# Versions: torch 2.15.0, torchvision 0.29.2.
# Behavior: torchvision.ops.sigmoid_focal_loss and its gradient, for the values of gamma in the table of the paper (0, 0.1,
# 0.2, 0.5, 1, 2, 5), of logits that are right and certain, in float32 and bfloat16.
# Output seen, 2026-11-28: the loss is finite for all. With gamma between 0 and 1 its gradient is NaN where the probability
# rounds to that of the label, from a logit of 17 (-18 for background) on, and in bfloat16, also that of autocast, already at 7:
# the derivative of u ** gamma at u = 0 is infinite, and it is multiplied by 0. With 0, and from 1 on, it is finite.
# Right value: for a right logit of size x, u = 1 / (1 + exp(x)), and the derivative is
# -u ** gamma * (gamma * (1 - u) * -log(1 - u) + u) per unit of alpha, whose size is below 1e-9 at 20: almost 0.
# Consequence: one background anchor that is certain, of a hundred thousand in an image, makes all weights NaN in the next
# step, hours into a training, or in the first steps of mixed precision; the loss that is logged until then looks normal.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder"
cat > focal.py <<'PY'
import math

import torch
import torchvision
from torchvision.ops import sigmoid_focal_loss

GAMMAS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def gradients(gamma, logit, dtype=torch.float32, autocast=False):
    """Return the loss, and the gradients of a right object and of right background, without alpha."""
    logits = torch.tensor([logit, -logit], dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = logits[:, None] @ torch.ones(1, 1) if autocast else logits[:, None]
        loss = sigmoid_focal_loss(outputs, torch.tensor([[1.0], [0.0]], dtype=outputs.dtype), alpha=-1, gamma=gamma)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all(), "the loss is no longer finite"
    return gradient.tolist()


def closed_form(gamma, logit):
    """Return the derivative for a right object of this logit."""
    u = 1 / (1 + math.exp(logit))
    return -(u**gamma) * (gamma * (1 - u) * -math.log1p(-u) + u)


print("torch", torch.__version__, "torchvision", torchvision.__version__)
for gamma in GAMMAS:
    at_5, expected = gradients(gamma, 5.0)[0], closed_form(gamma, 5.0)
    at_20 = gradients(gamma, 20.0)
    print(f"gamma {gamma}: gradient at 5 {at_5:.3g}, closed form {expected:.3g}; at 20 {at_20}, {closed_form(gamma, 20.0):.3g}")
    assert math.isclose(at_5, expected, rel_tol=1e-3) and abs(closed_form(gamma, 20.0)) < 3e-9
    assert all(map(math.isnan if 0 < gamma < 1 else math.isfinite, at_20)), "gradients at 20 have changed"
print("gamma 0.5, logits of 16 and 17 in float32:", gradients(0.5, 16.0), gradients(0.5, 17.0))
assert all(map(math.isfinite, gradients(0.5, 16.0))) and math.isnan(gradients(0.5, 17.0)[0]), "the first NaN is elsewhere"
for name, options in {"bfloat16": {"dtype": torch.bfloat16}, "autocast": {"autocast": True}}.items():
    print(f"gamma 0.5, a logit of 7 in {name}:", gradients(0.5, 7.0, **options))
    assert all(map(math.isnan, gradients(0.5, 7.0, **options))), "half precision has changed"
PY
venv/bin/python -W ignore focal.py
