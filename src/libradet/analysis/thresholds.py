"""From which numbers on the verdict speaks of an imbalance, and why. All of the verdict's limits are here.

The paper measures three things on COCO and shows what their balancing brings; where it gives a figure, "strong" begins
at about two thirds of the imbalance that it found there. Where it gives none the limits are our judgment, and the
verdict says so. Whatever the limit, what has a 95 % interval that does not tell it from balance is called undecided.
"""

PAPER_HARD, PAPER_RANDOM = 0.60, 0.30
"""Share above IoU 0.05 of hard negatives ("more than") and of what random sampling delivers ("about"), Figure 3."""

PAPER_INLIER_RATIO = 0.30
"""Mean gradient of an inlier over that of an outlier, section 3.3."""

GAP_STRONG, GAP_SOME = 0.20, 0.08
"""Hard negatives above IoU 0.05 minus those of random sampling: two thirds, and a quarter, of the paper's 0.30."""

SPREAD_STRONG, SPREAD_SOME = 0.10, 0.04
"""How much of all positives moves away from the best-served tenth of the ground truths when they are balanced. An even
tenth has 0.10, so "strong" is as much as it should have at all."""

CHOICE = 0.2
"""Share of images with more positives than slots below which a sampler of positives has nothing to decide."""

WITHOUT_STRONG, WITHOUT_SOME = 0.2, 0.05
"""Share of objects that no candidate is a positive for. Ours: what has no positive is learned as background."""

CKA_STRONG, CKA_SOME = 0.3, 0.5
"""Mean linear CKA between levels. Ours: 1 is the same content, 0 none in common."""

RATIO_STRONG, RATIO_SOME = 0.45, 0.65
"""Gradient of an inlier over that of an outlier: the paper's 0.30 and 1.5 times that, and about twice that."""

OUTLIERS = 0.05
"""Share of outliers among the positives below which it does not matter what they bring."""

TASKS_STRONG, TASKS_SOME = 4.0, 2.0
"""Gradient of one task over that of the other on what they share. Ours: a mean of both that is nearly one of them."""

CLASSES_STRONG, CLASSES_SOME = 50.0, 10.0
"""Objects of the most frequent class over those of the rarest. Ours; COCO's own is about 1300."""

PAPER_SMALL = 21.2 / 46.4
"""AP of small over that of large objects in the paper's baseline (Table 2)."""

SIZES_STRONG, SIZES_SOME = PAPER_SMALL / 2, PAPER_SMALL
"""AP of small over that of large objects: as on COCO, where small ones are known to be a problem, and half of that."""

FEW_IMAGES, FEW_POSITIVES, FEW_OBJECTS = 30, 200, 20
"""Fewer images, sampled positives, or objects of a class or size than these make a number a hint at most."""

BARELY_TRAINED = 0.05
"""AP below which a model has hardly learned yet, so that its losses say little about which samples are hard."""
