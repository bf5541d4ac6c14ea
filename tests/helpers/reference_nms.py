"""Suppression as its papers write it down: loops over Python's own double precision numbers."""

import math


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def reference_soft_nms(boxes, scores, groups, valid, decay, threshold, sigma, min_score, size):
    """Bodla et al., figure 3, group by group: (row, final score), best first."""
    kept = []
    for group in set(groups):
        left = {row: scores[row] for row in range(len(boxes)) if valid[row] and groups[row] == group}
        left = {row: score for row, score in left.items() if score > min_score}
        while left:
            best = max(left, key=lambda row: (left[row], -row))
            kept.append((best, left.pop(best)))
            for row in list(left):
                overlap = iou(boxes[best], boxes[row])
                if decay == "gaussian":
                    left[row] *= math.exp(-(overlap**2) / sigma)
                elif overlap > threshold:
                    left[row] *= 1 - overlap
                if left[row] <= min_score:
                    del left[row]
    return sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:size]


def reference_guided_nms(boxes, scores, quality, groups, valid, threshold, size):
    """Jiang et al., algorithm 1, group by group: (row, inherited score), best first."""
    kept = []
    for group in set(groups):
        left = [row for row in range(len(boxes)) if valid[row] and groups[row] == group]
        while left:
            best = max(left, key=lambda row: (quality[row], -row))
            left.remove(best)
            score = scores[best]
            for row in list(left):
                if iou(boxes[best], boxes[row]) > threshold:
                    score = max(score, scores[row])
                    left.remove(row)
            kept.append((best, score))
    return sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:size]
