"""Watching a model train: which inputs reach its layers and which gradients come back.

    capture = Capture(model, layers, fisher.source(deliver, generator), rate_samples, curvature_samples=8, mean_over="batch")
    capture.attach()                  # hooks on the model and its layers; close() takes them off

At each step, in this order:

    capture.refuse_hidden_forwards()  # RuntimeError if a compiled forward hid a measurement
    capture.why_unseen(name)          # why a layer with a gradient can't be measured; None if it can
    capture.forget_dropped()          # at a measuring step: what belongs to gradients that were dropped
    capture.source.finished(None)     # hands on what is still held
    capture.waiting                   # whether a gradient arrived at a call that had no g
    capture.warn_of_wrong_loss()      # once in a run
    capture.gather()                  # the rate's samples, by layer
    capture.reset()                   # all of it counts no more
    capture.measuring = True          # whether the next step measures

`deliver(name, calls, batch, forward_id, fisher)` is called as soon as the calls' g is known, and what it returns in the user's
backward pass, where the gradient of a call arrives.
Between two steps: `forget_arrived()` when gradients are zeroed (who has received measurements drops them), `watch(layers)` when
other layers are to be watched. `memory()` and `recall()` carry over to a copy; `called`, `refused`, `rates`, `forward_id` and
`source.notes` are there to be read.
"""

from lngd.capture.attachment import GradientHook
from lngd.capture.compiled import named_modules
from lngd.capture.graph import RateSample, spread
from lngd.capture.hooks import LEAST_ROWS, Capture

__all__ = ["LEAST_ROWS", "Capture", "GradientHook", "RateSample", "named_modules", "spread"]
