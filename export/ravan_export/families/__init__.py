"""Model families: how to load one, which layers adapt by default, how a batch enters it."""

from ravan_export.families.bert import BERT
from ravan_export.families.deit import DEIT
from ravan_export.families.distilbert import DISTILBERT
from ravan_export.families.family import Family, Form
from ravan_export.families.roberta import ROBERTA
from ravan_export.families.t5 import MT5, T5
from ravan_export.families.vit import VIT

__all__ = ["FAMILIES", "Family", "Form"]

FAMILIES: tuple[Family, ...] = (BERT, ROBERTA, DISTILBERT, T5, MT5, VIT, DEIT)
