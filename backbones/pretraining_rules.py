"""Rules that turn `NAME.TAG` of timm's published weights into method and data. Torch-free.

Sources: the comments and `origin_url` of timm's configurations, and the publications of the methods. `python -m
backbones.pretraining_table FILE` applies the rules to all tags that timm lists.
"""

from __future__ import annotations

# Data sets by the words of timm's tags.
DATA = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "inw21k": "ImageNet-Winter-21k",
    "jft": "JFT-300M",
    "laion2b": "LAION-2B",
    "yfcc100m": "YFCC-100M",
    "ig1b": "Instagram-1B",
}

SELF, TEXT, SEGMENTATION, DISTILLED = "self-supervised", "image-text", "segmentation", "distilled"
OTHER, TAUGHT = "supervised, other data", "supervised, distilled"

# Pattern in NAME.TAG, group, method, and the data before those of fine-tuning ("ft" in the tag); None for the data
# that the tag names. The first match counts.
RULES: tuple[tuple[str, str, str, str | None], ...] = (
    # Segmentation. Both start from MAE weights.
    (r"^samvit_.*\.sa1b$", SEGMENTATION, "SAM, from MAE", "SA-1B"),
    (r"^sam2_hiera_.*\.fb_r\d+", SEGMENTATION, "SAM 2, from MAE", "SA-1B, SA-V"),
    # Foundation models as teachers.
    (r"_radio_v\d\.c_radio$", DISTILLED, "C-RADIO: distilled from several foundation models", None),
    (r"\.eupe_lvd1689m$", DISTILLED, "EUPE: distilled from several foundation models", "LVD-1689M"),
    # Images with texts.
    (r"\.openai(_ft|$)", TEXT, "CLIP", "OpenAI WIT-400M"),
    (r"\.(clip_)?laion2b_plus", TEXT, "EVA-CLIP, from masked image modelling", "LAION-2B and other data"),
    (r"^eva.*\.merged2b", TEXT, "EVA-CLIP, from masked image modelling", "LAION-2B, COYO-700M"),
    (r"^eva.*_clip_.*\.laion2b", TEXT, "EVA-CLIP, from masked image modelling", "LAION-2B"),
    (r"^eva.*_clip_.*\.laion400m", TEXT, "EVA-CLIP, from masked image modelling", "LAION-400M"),
    (r"^eva_giant.*\.clip_ft_in1k", TEXT, "EVA-CLIP, from masked image modelling", "LAION-400M"),
    (r"\.tinyclip_laion400m", TEXT, "TinyCLIP: distilled from CLIP", "LAION-400M"),
    (r"\.tinyclip_yfcc15m", TEXT, "TinyCLIP: distilled from CLIP", "YFCC-15M"),
    (r"\.(clip_)?laion2b", TEXT, "CLIP", "LAION-2B"),
    (r"\.(clip_)?laion400m", TEXT, "CLIP", "LAION-400M"),
    (r"\.clip_laiona", TEXT, "CLIP", "LAION-Aesthetic"),
    (r"\.cc12m$", TEXT, "CLIP", "CC-12M"),
    (r"\.yfcc15m$", TEXT, "CLIP", "YFCC-15M"),
    (r"\.metaclip2_worldwide", TEXT, "MetaCLIP 2", "Common Crawl, worldwide"),
    (r"\.metaclip_2pt5b", TEXT, "MetaCLIP", "Common Crawl 2.5B"),
    (r"\.metaclip_400m", TEXT, "MetaCLIP", "Common Crawl 400M"),
    (r"\.metaclip_altogether", TEXT, "MetaCLIP, with Altogether captions", "Common Crawl"),
    (r"\.datacompxl$|\.datacomp1b_clip", TEXT, "CLIP", "DataComp-1B"),
    (r"\.dfn2b", TEXT, "CLIP", "DFN-2B"),
    (r"\.dfn5b", TEXT, "CLIP", "DFN-5B"),
    (r"\.apple_mclip2_dfndr2b", TEXT, "MobileCLIP 2: distilled from CLIP", "DFNDR-2B"),
    (r"\.apple_mclip", TEXT, "MobileCLIP: distilled from CLIP", "DataCompDR"),
    (r"_tipsv2\.webli", TEXT, "TIPS v2", "WebLI"),
    (r"_siglip.*\.v2_webli", TEXT, "SigLIP 2", "WebLI"),
    (r"_siglip.*\.webli", TEXT, "SigLIP", "WebLI"),
    (r"_siglip.*\.pali2_", TEXT, "SigLIP, then PaliGemma 2", "WebLI"),
    (r"_siglip.*\.pali_", TEXT, "SigLIP, then PaliGemma", "WebLI"),
    (r"^aimv2_.*\.apple_pt_dist", TEXT, "AIMv2, distilled", "DFN-2B, COYO, HQITP"),
    (r"^aimv2_.*\.apple_pt", TEXT, "AIMv2", "DFN-2B, COYO, HQITP"),
    (r"^beit3_.*", TEXT, "BEiT-3", "ImageNet-22k, image-text pairs, texts"),
    (r"^vit_pe_core_", TEXT, "Perception Encoder", "PE image and video captions"),
    (r"^vit_pe_lang_", TEXT, "Perception Encoder, aligned with a language model", "PE image and video captions"),
    (r"^vit_pe_spatial_", TEXT, "Perception Encoder, aligned with SAM 2.1 masks", "PE image and video captions"),
    (r"^vit_intern300m.*\.ogvl_dist", TEXT, "InternVL: distilled from InternViT-6B", "InternVL data"),
    (r"^vit_intern300m.*\.ogvl_2pt5", TEXT, "InternVL 2.5", "InternVL data"),
    (r"^davit_.*\.msft_florence2", TEXT, "Florence-2", "FLD-5B"),
    (r"^mobilenetv5_.*\.gemma3n$", TEXT, "vision encoder of Gemma 3n", None),
    (r"^gemma4_vit_", TEXT, "vision encoder of Gemma 4", None),
    (r"^qwen3_vit_", TEXT, "vision encoder of Qwen", None),
    (r"^deepseek_vit_", TEXT, "vision encoder of DeepSeek", None),
    # Images alone.
    (r"_dinov2\.lvd142m$", SELF, "DINOv2", "LVD-142M"),
    (r"^vit_7b.*\.lvd1689m$", SELF, "DINOv3", "LVD-1689M"),
    (r"^vit_7b.*\.sat493m$", SELF, "DINOv3", "SAT-493M"),
    (r"\.(dinov3_)?lvd1689m$", SELF, "DINOv3: distilled from its ViT-7B", "LVD-1689M"),
    (r"\.sat493m$", SELF, "DINOv3: distilled from its ViT-7B", "SAT-493M"),
    (r"\.(fb_)?dino$", SELF, "DINO", "ImageNet-1k"),
    (r"\.(fb_)?mae(_in1k)?(_ft.*)?$", SELF, "MAE", "ImageNet-1k"),
    (r"^convnextv2_.*\.fcmae", SELF, "FCMAE", "ImageNet-1k"),
    (r"\.in1k_ijepa$", SELF, "I-JEPA", "ImageNet-1k"),
    (r"\.in22k_ijepa$", SELF, "I-JEPA", "ImageNet-22k"),
    (r"^beitv2_.*\.in1k_ft", SELF, "BEiT v2: masked image modelling", "ImageNet-1k"),
    (r"^beit_.*\.in22k_ft", SELF, "BEiT: masked image modelling", "ImageNet-22k"),
    (r"^eva_large.*\.in22k_ft", SELF, "EVA: masked image modelling of CLIP features", "ImageNet-22k"),
    (r"^eva_giant.*\.m30m_ft", SELF, "EVA: masked image modelling of CLIP features", "Merged-30M"),
    (r"^eva02_.*\.mim_in22k", SELF, "EVA-02: masked image modelling of CLIP features", "ImageNet-22k"),
    (r"^eva02_.*\.mim_m38m", SELF, "EVA-02: masked image modelling of CLIP features", "Merged-38M"),
    (r"^regnety_.*\.seer", SELF, "SEER: SwAV", "Instagram, 1 billion images"),
    (r"_sapiens2\.fb$", SELF, "Sapiens 2: masked reconstruction and contrastive", "1 billion images of humans"),
    # Labels of other data sets.
    (r"\.ns_jft_in1k", OTHER, "Noisy Student: labels of ImageNet-1k, pseudo-labels of JFT", "JFT-300M, ImageNet-1k"),
    (r"\.fb_ssl_yfcc100m", OTHER, "semi-supervised: pseudo-labels", "YFCC-100M"),
    (r"\.fb_swsl_ig1b", OTHER, "semi-weakly supervised: hashtags, pseudo-labels", "Instagram-1B"),
    (r"\.fb_wsl_ig1b", OTHER, "weakly supervised: hashtags", "Instagram-1B"),
    (r"\.swag_lc_in1k", OTHER, "SWAG: weakly supervised, hashtags", "Instagram-3.6B, ImageNet-1k"),
    (r"\.swag_ft_in1k", OTHER, "SWAG: weakly supervised, hashtags", "Instagram-3.6B"),
    (r"\.bamboo$", OTHER, "supervised", "Bamboo"),
    # Teachers, with data that the tag does not name.
    (r"\.ssld_stage2_ft_in1k", TAUGHT, "SSLD: supervised, with a teacher", "ImageNet-22k, ImageNet-1k"),
    (r"\.bd_ssld_6m_in1k", TAUGHT, "SSLD: supervised, with a teacher", "6 million images, ImageNet-1k"),
)  # fmt: skip

# Words of tags of supervised trainings: the recipe, whose authors, epochs (e300), resolution (r256, 384). A tag of
# these words and of data sets is supervised; one with any other word is unknown.
SUPERVISED_WORDS = (
    r"a[123]h?|aa|ad|adv|agc|ah|am|ap|apple|aug|augreg2?|b[12]k|bd|bt|c[123](ns)?|ch|cvnets|d|d[12]h?|deit|dist|distilled"
    r"|dm|\d*ep?|e\d+|ens|fb|ft|gluon|goog|idstcv|indomain|ix|lamb|lion|miil|green|ms|msft|mx|nadamuon|nav|naver|nv|orig"
    r"|paddle|patch\d+|pd|pycls|r\d+|ra[234]?|racm|ram|rmsp|rsb|rvgg|s\d+|sail|sam|sbb2?|snap|ssld|stage[12]|6m|sw|teacher"
    r"|tf|timm|tv2?|usi|\d+e|\d{3}"
)
# A teacher's predictions as targets: in the tag, in timm's names of DeiT, PiT, iFormer and EfficientViM, and in USI
# (arXiv:2204.03475).
TEACHER = r"[._](dist|distilled|ssld|usi)(_|\.|$)"
