"""Indicators: signs that a robustness number is not what it seems, in rising order of cost."""

from robustkit.audit.indicators.attacks import COMPARED, OPTIMISED, settled
from robustkit.audit.indicators.claims import CLAIMED
from robustkit.audit.indicators.gradients import GRADIENTS
from robustkit.audit.indicators.indicator import (
    Indicator,
    IndicatorEvidence,
    NotApplicable,
    Unexaminable,
)
from robustkit.audit.indicators.outputs import OUTPUTS
from robustkit.audit.indicators.passes import PASSES

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
