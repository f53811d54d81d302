"""The figures of the paper's tables 2 to 5, as printed.

``docs/reading-the-paper.md`` says what they are worth.
"""

from __future__ import annotations

METRICS = ("dice", "iou", "sensitivity", "specificity", "accuracy", "hd")
"""Columns of tables 2 to 4, in their order; HD is printed as millimetres."""

TABLES = {"busi": 2, "tn3k": 3, "ddti": 4}
"""Number of the table of each data set."""

Figures = tuple[float, float, float, float, float, float]

PUBLISHED: dict[str, dict[str, Figures]] = {
    "busi": {
        "U-Net": (0.6136, 0.5782, 0.7376, 0.9871, 0.9759, 24.4632),
        "UCTransNet": (0.7208, 0.6087, 0.8217, 0.9339, 0.9284, 44.9926),
        "TransResUNet": (0.8012, 0.7109, 0.8534, 0.9754, 0.9662, 19.8408),
        "U-KAN": (0.7157, 0.6094, 0.8436, 0.9704, 0.9568, 25.6295),
        "SAM": (0.4246, 0.3281, 0.6745, 0.7051, 0.7569, 78.7364),
        "EdgeSAM": (0.6186, 0.5162, 0.7806, 0.7957, 0.8432, 39.4552),
        "MedSAM": (0.8387, 0.7399, 0.8691, 0.9893, 0.9585, 20.4551),
        "SAM-Med2D": (0.8838, 0.7961, 0.8751, 0.9832, 0.9807, 14.3879),
        "LMSFE-SAM": (0.8927, 0.8119, 0.8959, 0.9957, 0.9810, 11.7580),
    },
    "tn3k": {
        "U-Net": (0.6501, 0.5334, 0.7534, 0.975, 0.9664, 25.2532),
        "UCTransNet": (0.7375, 0.6196, 0.8132, 0.9503, 0.9282, 30.2321),
        "TransResUNet": (0.8058, 0.7065, 0.7967, 0.981, 0.9627, 29.1847),
        "U-KAN": (0.7628, 0.6592, 0.7733, 0.9730, 0.9503, 19.4222),
        "SAM": (0.5291, 0.4589, 0.4718, 0.5848, 0.6525, 131.2288),
        "EdgeSAM": (0.6967, 0.5621, 0.6686, 0.9796, 0.9504, 48.7649),
        "MedSAM": (0.7971, 0.6888, 0.7958, 0.963, 0.9122, 34.898),
        "SAM-Med2D": (0.7672, 0.6385, 0.6562, 0.9839, 0.9276, 28.5123),
        "LMSFE-SAM": (0.8315, 0.7227, 0.7972, 0.9897, 0.9867, 17.3468),
    },
    "ddti": {
        "U-Net": (0.6780, 0.5129, 0.6828, 0.9834, 0.9534, 25.8296),
        "UCTransNet": (0.7621, 0.6417, 0.8034, 0.9765, 0.9599, 28.1208),
        "TransResUNet": (0.8067, 0.7108, 0.8207, 0.9853, 0.9713, 23.3662),
        "U-KAN": (0.7464, 0.6233, 0.7942, 0.9743, 0.9533, 30.8098),
        "SAM": (0.5588, 0.4012, 0.6267, 0.7101, 0.6499, 69.6821),
        "EdgeSAM": (0.4725, 0.3792, 0.8451, 0.7255, 0.7268, 79.7672),
        "MedSAM": (0.7418, 0.5924, 0.7809, 0.9753, 0.9193, 27.5772),
        "SAM-Med2D": (0.8192, 0.7042, 0.7574, 0.9923, 0.9604, 17.7259),
        "LMSFE-SAM": (0.8408, 0.7610, 0.8619, 0.9840, 0.9675, 18.9144),
    },
}
"""Tables 2 to 4: data set, model, figures in the order of `METRICS`."""

TOGGLES = ("local_encoder", "mhpm", "adapters", "balancing_adapter")
"""Columns of table 5: LM encoder, MHPM, ViTA and CBA."""

ABLATION: dict[str, tuple[tuple[bool, ...], dict[str, tuple[float, float]]]] = {
    "Baseline": (
        (False, False, False, False),
        {"busi": (0.5360, 0.4295), "ddti": (0.5175, 0.4051), "tn3k": (0.4276, 0.3229)},
    ),
    "Ablation 1": (
        (False, False, True, False),
        {"busi": (0.7621, 0.6631), "ddti": (0.5815, 0.4262), "tn3k": (0.5972, 0.4689)},
    ),
    "Ablation 2": (
        (True, False, False, False),
        {"busi": (0.7668, 0.6575), "ddti": (0.7428, 0.6184), "tn3k": (0.7671, 0.6738)},
    ),
    "Ablation 3": (
        (True, False, False, True),
        {"busi": (0.7828, 0.6759), "ddti": (0.7492, 0.6247), "tn3k": (0.7887, 0.6767)},
    ),
    "Ablation 4": (
        (True, True, False, True),
        {"busi": (0.8626, 0.7656), "ddti": (0.7570, 0.6325), "tn3k": (0.7963, 0.6862)},
    ),
    "LMSFE-SAM": (
        (True, True, True, True),
        {"busi": (0.8930, 0.8123), "ddti": (0.8408, 0.7610), "tn3k": (0.8315, 0.7227)},
    ),
}
"""Table 5: row, toggles in the order of `TOGGLES`, Dice and IoU by data set."""
