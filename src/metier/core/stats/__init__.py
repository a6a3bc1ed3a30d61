"""Intervals, tests and row counts: what `assess` decides with. Pure; SciPy is loaded at the first call."""

from metier.core.stats.clustered import (
    MIN_GROUPS,
    average_within_rows,
    bell_mccaffrey_df,
    bootstrap_t,
    design_effect,
    grouped_mean,
    intra_class_correlation,
)
from metier.core.stats.paired import (
    GainEstimate,
    bonett_price,
    bonett_price_bounds,
    mcnemar_exact,
    mcnemar_mid_p,
)
from metier.core.stats.power import (
    holm,
    min_detectable_gain,
    rows_for_margin,
    rows_for_no_gain,
    rows_for_precision,
    rows_to_clear,
)
from metier.core.stats.proportions import Interval, clopper_pearson, jeffreys, wald, wilson, z_quantile
from metier.core.stats.skewed import skewed_mean

__all__ = [
    "MIN_GROUPS", "GainEstimate", "Interval", "average_within_rows", "bell_mccaffrey_df", "bonett_price",
    "bonett_price_bounds", "bootstrap_t", "clopper_pearson", "design_effect", "grouped_mean", "holm",
    "intra_class_correlation", "jeffreys", "mcnemar_exact", "mcnemar_mid_p", "min_detectable_gain", "rows_for_margin",
    "rows_for_no_gain", "rows_for_precision", "rows_to_clear", "skewed_mean", "wald", "wilson", "z_quantile",
]  # fmt: skip
