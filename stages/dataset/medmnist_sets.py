"""The one template of cards for all 2D sets of MedMNIST: what is known of each set, and the card that says it.

Labels, licences and tasks as in MedMNIST v2 (Yang J. et al., Scientific Data 10, 41 (2023)) and its package's table INFO.
"""

from __future__ import annotations

from typing import NamedTuple

from stages.dataset.medmnist import FINDING, NO_FINDING


class Set(NamedTuple):
    """A set: its title, modality, start of a prompt, raw label to (class key, title), and the class key that is normal."""

    title: str
    modality: str
    image: str
    classes: dict[str, tuple[str, str]]
    normal: str | None = None
    licence: str = "CC BY 4.0"
    note: str = ""


def _numbered(*classes: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """Classes by their raw label: "0", "1", ..."""
    return {str(k): value for k, value in enumerate(classes)}


ORGANS = _numbered(
    ("bladder", "the bladder"), ("femur_left", "the left femur"), ("femur_right", "the right femur"), ("heart", "the heart"),
    ("kidney_left", "the left kidney"), ("kidney_right", "the right kidney"), ("liver", "the liver"), ("lung_left", "the left lung"),
    ("lung_right", "the right lung"), ("pancreas", "the pancreas"), ("spleen", "the spleen"),
)  # fmt: skip

SETS = {
    "pathmnist": Set(
        "PathMNIST: colorectal cancer histology", "histology, haematoxylin and eosin", "a histology image of",
        _numbered(
            ("adipose", "adipose tissue"), ("background", "background"), ("debris", "debris"), ("lymphocytes", "lymphocytes"), ("mucus", "mucus"),
            ("smooth_muscle", "smooth muscle"), ("normal_mucosa", "normal colon mucosa"), ("stroma", "cancer-associated stroma"),
            ("adenocarcinoma", "colorectal adenocarcinoma epithelium"),
        ),
        "normal_mucosa",
    ),
    "chestmnist": Set(
        "ChestMNIST: finding or no finding (14 findings made one)", "chest X-ray", "a chest X-ray with",
        {FINDING: ("finding", "a finding"), NO_FINDING: ("no_finding", "no finding")}, "no_finding",
        note="Its 14 labels may stand together on one image, and here an image has one class: any of them is 1: finding, none: no_finding.",
    ),
    "dermamnist": Set(
        "DermaMNIST: dermoscopy (HAM10000 at a smaller size)", "dermoscopy", "a dermoscopic image of",
        _numbered(
            ("akiec", "actinic keratosis"), ("bcc", "basal cell carcinoma"), ("bkl", "benign keratosis"), ("df", "dermatofibroma"),
            ("mel", "melanoma"), ("nv", "melanocytic nevus"), ("vasc", "vascular lesion"),
        ),
        "nv", "CC BY-NC 4.0",
        note="Its lesions are HAM10000's, several images each, and the archive does not name them: never test one on the other.",
    ),
    "octmnist": Set(
        "OCTMNIST: retinal optical coherence tomography", "optical coherence tomography of the retina", "an OCT image of",
        _numbered(("cnv", "choroidal neovascularisation"), ("dme", "diabetic macular oedema"), ("drusen", "drusen"), ("normal", "a normal retina")),
        "normal",
    ),
    "pneumoniamnist": Set(
        "PneumoniaMNIST: chest X-rays of children", "chest X-ray", "a chest X-ray of a child with",
        _numbered(("normal", "normal lungs"), ("pneumonia", "pneumonia")), "normal",
    ),
    "retinamnist": Set(
        "RetinaMNIST: grades of diabetic retinopathy", "fundus photography", "a fundus photograph of",
        _numbered(
            ("grade_0", "no diabetic retinopathy"), ("grade_1", "mild non-proliferative diabetic retinopathy"),
            ("grade_2", "moderate non-proliferative diabetic retinopathy"), ("grade_3", "severe non-proliferative diabetic retinopathy"),
            ("grade_4", "proliferative diabetic retinopathy"),
        ),
        "grade_0",
        note="The archive has grades 0 to 4 alone; the titles are those of the international scale.",
    ),
    "breastmnist": Set(
        "BreastMNIST: breast ultrasound", "breast ultrasound", "a breast ultrasound image of",
        _numbered(("malignant", "a malignant tumour"), ("normal_benign", "a normal breast or a benign tumour")), "normal_benign",
    ),
    "bloodmnist": Set(
        "BloodMNIST: cells of healthy blood", "blood smear microscopy", "a microscopy image of",
        _numbered(
            ("basophil", "a basophil"), ("eosinophil", "an eosinophil"), ("erythroblast", "an erythroblast"),
            ("immature_granulocyte", "an immature granulocyte"), ("lymphocyte", "a lymphocyte"), ("monocyte", "a monocyte"),
            ("neutrophil", "a neutrophil"), ("platelet", "a platelet"),
        ),
    ),
    "tissuemnist": Set(
        "TissueMNIST: cells of the kidney cortex", "fluorescence microscopy", "a microscopy image of a cell of",
        _numbered(
            ("collecting_duct", "the collecting duct or connecting tubule"), ("distal_tubule", "the distal convoluted tubule"),
            ("glomerular_endothelium", "the glomerular endothelium"), ("interstitial_endothelium", "the interstitial endothelium"),
            ("leukocyte", "the leukocytes"), ("podocyte", "the podocytes"), ("proximal_tubule", "the proximal tubule"),
            ("thick_ascending_limb", "the thick ascending limb"),
        ),
    ),
    "organamnist": Set("OrganAMNIST: organs in axial CT", "abdominal CT", "an axial CT image of", ORGANS),
    "organcmnist": Set("OrganCMNIST: organs in coronal CT", "abdominal CT", "a coronal CT image of", ORGANS),
    "organsmnist": Set("OrganSMNIST: organs in sagittal CT", "abdominal CT", "a sagittal CT image of", ORGANS),
}  # fmt: skip
