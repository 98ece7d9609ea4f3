#!/usr/bin/env bash
# torch 2.13.0 (CPU build).
#
# What one guesses: `with torch.compiler.set_stance("force_eager"):` holds for the thread that entered it, as torch.no_grad() does, and is
# over when the block ends.
# What happens: the stance belongs to the process, and each block restores what it found. Two threads whose blocks overlap, the first to
# enter being the first to leave, leave the stance of the first behind: from then on nothing in the process is compiled, silently.
#
# Seen:
#   inside another thread's block, a new function is compiled: False
#   after both blocks have ended, a new function is compiled: False
#
# For our users: measuring forwards of compiled models share one block under a lock, and the last to leave ends it (tests/test_compiled.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import threading

import torch

compiled = []


def backend(graph, _inputs):
    compiled.append(graph)
    return graph.forward


def is_compiled(number):
    before = len(compiled)
    torch.compile(lambda t: t * number, backend=backend)(torch.ones(2))
    return len(compiled) > before


assert is_compiled(2)
entered, second_entered, first_left = (threading.Event() for _ in range(3))
inside = []


def first():
    with torch.compiler.set_stance("force_eager"):
        entered.set()
        second_entered.wait()
    first_left.set()


def second():
    entered.wait()
    inside.append(is_compiled(3))
    with torch.compiler.set_stance("force_eager"):
        second_entered.set()
        first_left.wait()


threads = [threading.Thread(target=run) for run in (first, second)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
after = is_compiled(5)
print("inside another thread's block, a new function is compiled:", inside[0])
print("after both blocks have ended, a new function is compiled:", after)
assert (inside[0], after) == (False, False)
PYTHON
