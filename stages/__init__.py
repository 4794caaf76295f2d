"""The stages of the chain: one short file each. A stage reads, calls, writes."""

import os

# Set before torch is imported: threads that wait for work sleep instead of spinning. Beside
# another busy process (a sweep's jobs, say) that is the difference between 3 s and 20 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
