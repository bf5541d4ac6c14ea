"""Operations and layer replacements used inside detectors."""
