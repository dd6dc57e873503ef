"""Indicators: signs that a robustness number is not what it seems, in rising order of cost."""

from robustkit.audit.indicators.attacks import COMPARED, OPTIMISED, settled
from robustkit.audit.indicators.claims import CLAIMED
from robustkit.audit.indicators.gradients import AVAILABLE
from robustkit.audit.indicators.indicator import Indicator, Symptom, Unexaminable

INDICATORS: tuple[Indicator, ...] = (*CLAIMED, *AVAILABLE, *COMPARED, *OPTIMISED)

__all__ = ["INDICATORS", "Indicator", "Symptom", "Unexaminable", "settled"]
