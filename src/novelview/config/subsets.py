"""Names and sizes of the training subsets (specs/re10k_format.md section 5)."""

SUBSETS = {"full": 1, "large": 4, "medium": 16, "little": 64}  # a subset is one part in so many of the training chunks
