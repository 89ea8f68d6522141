"""How long something takes, learnt from any rows of positive features: the parts behind `RuntimeRegressor`.

==============  ============================================================================================
`rows`          what was given, checked: unusable rows flagged, like rows condensed to cells
`structure`     non-negative sums of scale-out terms: what extrapolates
`powers`        products of powers, and pairs of them, with priors on all: the same for a handful of rows
`process`       Gaussian processes on what the structure leaves, many of them, weighted by how they predict
`mixture`       both together, as a prediction and its spread
==============  ============================================================================================

None of them knows a run, a batch or Celery.
"""
