"""Indicators: signs that a robustness number is not what it seems, in rising order of cost."""

from robustkit.auditing.indicators.attacks import COMPARED, OPTIMISED, settled
from robustkit.auditing.indicators.claims import CLAIMED
from robustkit.auditing.indicators.gradients import GRADIENTS
from robustkit.auditing.indicators.indicator import (
    Indicator,
    IndicatorEvidence,
    NotApplicable,
    Unexaminable,
)
from robustkit.auditing.indicators.outputs import OUTPUTS
from robustkit.auditing.indicators.passes import PASSES

INDICATORS: tuple[Indicator, ...] = (
    *CLAIMED,
    *PASSES,
    *OUTPUTS,
    *GRADIENTS,
    *COMPARED,
    *OPTIMISED,
)

__all__ = [
    "INDICATORS",
    "Indicator",
    "IndicatorEvidence",
    "NotApplicable",
    "Unexaminable",
    "settled",
]
