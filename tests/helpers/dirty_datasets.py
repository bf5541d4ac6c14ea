"""Damaged and unusual datasets in the folder of shared data."""

DIRTY_CASES = [
    "01_clean_control",
    "02_missing_image_file",
    "05_zero_area_boxes",
    "07_boxes_outside_image",
    "08_unknown_category",
    "12_empty_annotations",
    "13_images_without_boxes",
    "14_grayscale",
    "19_exif_rotated",
    "22_noncontiguous_category_ids",
    "24_iscrowd_rle",
    "26_unicode_file_names",
    "30_nan_coordinates",
    "33_missing_optional_fields",
    "40_truncated_json",
]
