"""How long something takes, learnt from any rows of positive features: the rooms behind `RuntimeRegressor`.

==============  ============================================================================================
`rows`          what was given, checked: unusable rows flagged, like rows condensed to cells
`structure`     non-negative sums of scale-out terms, and products of powers: what extrapolates
`process`       Gaussian processes on what the structure leaves, many small ones, weighted by left-out cells
`mixture`       both together, as a prediction and its spread; censored rows are completed here
==============  ============================================================================================

None of them knows a run, a batch or Celery.
"""
