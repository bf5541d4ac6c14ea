"""All thresholds of the diagnosis, and their reasons.

The paper measures three imbalances on COCO and reports what balancing gains. Where it reports a value, "strong" begins
at about two thirds of the imbalance that it measured. Where it reports none, the thresholds are libradet's own, and the
finding says so. Independently of the threshold, a value whose 95 % interval includes balance is inconclusive.
"""

PAPER_HARD, PAPER_RANDOM = 0.60, 0.30
"""Share above IoU 0.05 of hard negatives ("more than") and of randomly sampled ones ("about"), Figure 3."""

PAPER_INLIER_RATIO = 0.30
"""Mean gradient of an inlier over that of an outlier, section 3.3."""

GAP_STRONG, GAP_MODERATE = 0.20, 0.08
"""Share above IoU 0.05 of hard negatives minus that of random sampling: two thirds, and a quarter, of the paper's 0.30.
"""

SPREAD_STRONG, SPREAD_MODERATE = 0.10, 0.04
"""Share of all positives that moves away from the tenth of the ground truths with the most when sampling is balanced.
An even tenth has 0.10, so "strong" equals its entire even share."""

MIN_OVERSUBSCRIBED = 0.2
"""Share of images with more positives than slots below which the sampler of positives makes no difference."""

BELOW_STRONG, BELOW_MODERATE = 0.7, 0.6
"""Share of positives whose IoU is below the middle between the threshold and 1. libradet's own: 0.5 is uniform."""

WITHOUT_STRONG, WITHOUT_MODERATE = 0.2, 0.05
"""Share of objects without a positive candidate. libradet's own: such objects are trained as background."""

CKA_STRONG, CKA_MODERATE = 0.3, 0.5
"""Mean linear CKA between levels. libradet's own: 1 is the same content, 0 nothing in common."""

RATIO_STRONG, RATIO_MODERATE = 0.45, 0.65
"""Gradient of an inlier over that of an outlier: 1.5 times the paper's 0.30, and about twice that."""

MIN_OUTLIERS = 0.05
"""Share of outliers among the positives below which their gradient does not matter."""

TASKS_STRONG, TASKS_MODERATE = 4.0, 2.0
"""Gradient of one task over that of the other at shared layers. libradet's own: a mean that is nearly one of the two.
"""

CLASSES_STRONG, CLASSES_MODERATE = 50.0, 10.0
"""Objects of the most frequent class over those of the rarest. libradet's own; COCO has about 1300."""

CORRELATION_STRONG, CORRELATION_MODERATE = 0.7, 0.4
"""Rank correlation of class frequency and AP, of five or more classes. libradet's own: half of the variance of the
ranks, and a sixth. Below, rare classes are not behind, however rare they are."""

PAPER_SMALL = 21.2 / 46.4
"""AP of small over that of large objects in the paper's baseline (Table 2)."""

SIZES_STRONG, SIZES_MODERATE = PAPER_SMALL / 2, PAPER_SMALL
"""AP of small over that of large objects: half of COCO's ratio, and COCO's, where small objects are a known problem."""

MIN_IMAGES, MIN_POSITIVES, MIN_OBJECTS = 30, 200, 20
"""With fewer images, sampled positives, or objects of a class or size than these, a number is only indicative."""

BARELY_TRAINED = 0.05
"""AP below which a model has barely been trained, so that its losses say little about which samples are hard."""
