"""Drawing cases: the only room that knows Hypothesis.

A case is decoded from one row of random bytes (`knobs`), in the order options, sizes (`shapes`),
arrays (`values`, with the numbers that the layer's own code mentions, `constants`). One draw
instead of a hundred makes a case cheap, and Hypothesis's own integer and float draws would depend
on which modules happen to be imported, so that the same seed would give other cases in another process.
"""

from gradverify.core.draw.rows import Pool as Pool
from gradverify.core.draw.running import each as each
from gradverify.core.draw.strategy import cases as cases
from gradverify.core.draw.strategy import decoding as decoding
from gradverify.core.draw.strategy import drawing_of as drawing_of
from gradverify.core.draw.strategy import explored as explored

__all__ = ["Pool", "cases", "decoding", "drawing_of", "each", "explored"]
