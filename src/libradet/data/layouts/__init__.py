"""How folders hold datasets: each layout is recognized and turned into COCO's terms."""
