"""To be imported by a process that is to be forked: its garbage collector leaves alone what is there by now.

A collection in a child would visit, and thereby copy, all that the two share.
"""

import gc

gc.collect()
gc.freeze()
