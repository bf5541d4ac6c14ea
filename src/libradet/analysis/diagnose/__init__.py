"""From the numbers of a report to findings: which imbalance is present, how severe, and which option addresses it."""
