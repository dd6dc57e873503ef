"""What float32 loses in one step, so that a bound of the exact step holds for the network as run.

A step k of the network *as run* is not the exact map f_k but f_k(z) + e, z being what really went
in, itself rounded. Whatever is known of z is known of numbers that float32 computed; only this one
step's own error e is new. It is one more perturbation of the step: its interval is widened by
δ ≥ |e|, and where a linear function a · (result of k) is carried back, |a| · δ is taken off. By
induction over the steps every interval then holds the numbers that float32 computes, and every
lower bound is one of them. Nothing has to be carried through the products |W_n| … |W_1| of all
later layers, as in a running error analysis of the distance to the exact network.

δ bounds |e| for every z in the interval of the step's input; ŷ is float32's result.

- *A sum of n products and a bias*, y = Σ w_i z_i + b. Whatever the order, the blocks, the number
  of threads, with or without fused multiply-add: each product meets its own rounding and those of
  at most n additions, so that |ŷ − y| ≤ γ_{n+1} T with T = Σ |w_i| |z_i| + |b|, γ_m = m u / (1 −
  m u) and u = 2⁻²⁴ (Higham 2002, lemma 3.1 and section 3.1). Convolutions and means are such sums;
  a mean's division, by n or by its reciprocal, has two roundings more. A step's `terms` counts n,
  or n + 2 of a mean, and m = `terms` + 2.
- *The same, tighter.* An addition errs by at most u |ŝ|, ŝ being what it gives (Higham 2002,
  section 4.2): the sum of some of the terms, in error by at most γ_m T. Sums of some terms lie
  between those of all the negative and of all the positive ones, −P and Q; since P + Q = T and
  Q − P = y, none is larger than (T + |y|) / 2. With n additions and a product's own rounding,
  |ŷ − y| ≤ n u ((T + |y|) / 2 + γ_m T) + u T: half as much where the terms cancel. Here n counts
  the products that may differ from 0, for adding 0 is exact: a ReLU that is surely off costs none.
- *A factor and an offset for each number*, as normalisation, constants and batch norm have them.
  The factor of the step is exact, the network's own may be rounded first: a Python number to
  float32, a divisor to its reciprocal. Batch norm is folded here in float64, there computed from
  weight w, bias b, mean m and variance v as x s + (b − m s) or (x − m) s + b, s = w / √(v + ε).
  Each of |x s|, |m s| and |b| then meets one rounding of ε and one of v + ε, both halved by the
  root, the root (twice two: a GPU's reciprocal root errs by two units in the last place), quotient
  or product, x s, m s and two sums: ten, below 12 = `terms` + 2.
- *A sum of two results* meets one rounding, a leaky slope two; ReLU, max pools and what only moves
  numbers none. Pixels are float32 numbers themselves.
- *Sigmoid and tanh* are library functions, for which IEEE promises nothing. Assumed is that each
  errs by no more than `LIBRARY`, eight times 2⁻²³ of the exact result. On a CPU (x86) torch's
  sigmoid was off by 1.14 such units at most, its tanh by 0.50, over numbers of every size.
- *Underflow* of results and factors, gradual or to zero, loses up to 2⁻¹²⁶ of every |w_i|, |z_i|,
  product and sum. Since sizes count by their relative error alone, u at least, `TINY` is added to
  each of them: its share is 2⁻¹¹⁴ at least. That also covers what batch norm makes of a weight that
  is lost, |x| 2⁻¹²⁶ / √(v + ε), down to a variance of 2⁻³⁰; there smaller ones are refused
  (`operations._batch_norm`), and so are factors that float32 cannot hold. Where a sum might
  overflow, that of a mean before it is divided included, δ is infinite: nothing is proved.

*The bound's own arithmetic* is float64, rounding to nearest. Forward it computes the same sums as
the network; backward, sums over at most as many numbers as the step's result has; around both there
is a constant number of operations, and one addition a step. Each of these errors is at most
γ_m(2⁻⁵³) |a| (Σ |w_i| |z_i| + |b|), together at most with m = 16 (n + numbers of the result + steps
+ 64), which is added to δ; what is exact in float32, and more than a move, has a δ of that alone.
Counted: two sums forward (middle and radius) and that of the sizes, n + 4 each; on the way back two
over the result, the slopes' and the offset's, and that of |a| δ; an addition a step, and below 32
more: under 4 (n + numbers of the result + steps + 64), so that 16 leaves a factor of four. Slopes
need no error of their own: a · f(z) ≥ a' · z + c − |a| δ is claimed for the a' and c that were
really computed. The region accounts for its own arithmetic.

*Assumed* is IEEE arithmetic, and that sums are taken directly: γ does not bound Winograd's and
Fourier transforms. On x86 torch asks oneDNN for the direct algorithm; NNPACK, cuDNN and, on ARM,
torch's own depthwise kernel may transform. Each convolution is therefore tried where it runs
(`precision.check_convolutions`), and refused if it does; presumed is that what is tried is what is
used. Where torch's settings let factors be cut to TF32
or bfloat16, each has a relative error of 2⁻¹⁰ or 2⁻⁷ (cut, not rounded), and u = 2⁻²², since
tensor cores drop bits of what they add: aligned to the largest with 24 bits, a term loses 2⁻²³ of
it, and no more for the result's own share (presumed; Fasi et al. 2021 found fewer dropped).
"""

from dataclasses import dataclass

from torch import Tensor

UNDERFLOW = 2.0**-126
"""the smallest normal float32; what lies below may be kept or be 0"""
TINY = 2.0**-90
"""what a size is at least: u of it is more than underflow loses"""
OVERFLOW = 2.0**126
"""no partial sum below it exceeds float32's largest number, rounding included"""
LIBRARY = 8 * 2.0**-23
"""relative error of float32's sigmoid and tanh, assumed: several times what is measured"""
DOUBLE = 2.0**-53
"""relative error of one float64 operation"""


@dataclass(frozen=True, slots=True)
class Roundoff:
    """How a floating-point network rounds."""

    unit: float = 2.0**-24
    """relative error of one operation: float32's"""
    inputs: float = 0.0
    """relative error of each factor of a matrix product or convolution before it is multiplied"""

    def relative(self, terms: float) -> float:
        """Error of a number that passes through so many roundings and two, over its size."""
        return _gamma(terms + 2, self.unit)

    def of_sum(self, terms: Tensor | int, sizes: Tensor, results: Tensor) -> Tensor:
        """Error of a sum of so many products that are not 0, in any order.

        `sizes` is the sum of their sizes, `results` that of the rounded sum, of one shape.
        """
        cut = 2.1 * self.inputs  # of two factors
        most = float(terms.max()) if isinstance(terms, Tensor) else terms
        partial = self.relative(most) + cut
        # the exact sum is off the rounded one by that much at most
        largest = (sizes + results + partial * sizes) / 2 + partial * sizes
        return terms * self.unit * largest + (2 * self.unit + cut) * sizes


IEEE = Roundoff()


def own_arithmetic(terms: int, outputs: int, steps: int) -> float:
    """Relative error of the bound's own float64 arithmetic at a step."""
    return _gamma(16 * (terms + outputs + steps + 64), DOUBLE)


def _gamma(roundings: float, unit: float) -> float:
    product = roundings * unit
    return product / (1 - product) if product < 0.5 else float("inf")
