"""How folders hold data sets: each layout is recognised and turned into COCO's terms."""
