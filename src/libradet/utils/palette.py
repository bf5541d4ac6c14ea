"""Colors of drawings and plots, as ``#RRGGBB``."""

ORANGE, SKY_BLUE, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

OKABE_ITO = (ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILION, PURPLE)
"""Color-blind safe palette of Okabe and Ito (2008), without black, which is used for text and outlines."""

LINE_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE)
"""Colors of curves on a white background, without yellow, which has too little contrast there."""

INK, FAINT, GRID, PAPER = "#1A1A1A", "#6B6B6B", "#E3E3E3", "#FFFFFF"
"""Text and outlines, secondary text, grid lines of plots, background."""
