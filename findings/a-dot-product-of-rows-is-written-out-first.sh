#!/usr/bin/env bash
# torch 2.13.0 (CPU build).
#
# What one guesses: torch.linalg.vecdot(x, y) is torch.dot for rows. Like that it reads both and writes a number a row, and what it needs beside them
# does not depend on how long they are. The same for cosine_similarity, which is three of those.
# What happens: of two vectors vecdot is one kernel, of rows it multiplies entry by entry into a tensor as large as x and then sums that up.
# cosine_similarity writes three such tensors. einsum("bn,bn->b") says the same as vecdot and writes none, since it becomes a batched product.
#
# Seen (numbers written beside the result, over those of x):
#   vecdot of two vectors 0.0
#   vecdot of rows 1.0
#   cosine_similarity of rows 3.0
#   einsum bn,bn->b 0.0
#
# For our users: the step's slopes ⟨d, M⟩ of large layers come from torch.dot (src/lngd/linalg/vectors.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' | tee seen
import torch
from torch.nn.functional import cosine_similarity
from torch.utils._python_dispatch import TorchDispatchMode

ROWS, LENGTH = 4, 100_000


class Written(TorchDispatchMode):
    """Counts the numbers of all tensors that are no views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        if not operator.is_view:
            self.count += out.numel()
        return out


x, y = torch.randn(2, ROWS, LENGTH)
for name, work, of in (
    ("vecdot of two vectors", lambda: torch.linalg.vecdot(x[0], y[0]), LENGTH),
    ("vecdot of rows", lambda: torch.linalg.vecdot(x, y), x.numel()),
    ("cosine_similarity of rows", lambda: cosine_similarity(x, y), x.numel()),
    ("einsum bn,bn->b", lambda: torch.einsum("bn,bn->b", x, y), x.numel()),
):
    with Written() as written:
        work()
    print(name, round(written.count / of, 1))
PYTHON
diff seen - <<'EXPECTED'
vecdot of two vectors 0.0
vecdot of rows 1.0
cosine_similarity of rows 3.0
einsum bn,bn->b 0.0
EXPECTED
