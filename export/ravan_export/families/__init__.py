"""Model families: how to load one, which layers adapt by default, how a batch enters it."""

from ravan_export.families.bert import BERT
from ravan_export.families.distilbert import DISTILBERT
from ravan_export.families.family import Family, Form
from ravan_export.families.roberta import ROBERTA

__all__ = ["FAMILIES", "Family", "Form"]

FAMILIES: tuple[Family, ...] = (BERT, ROBERTA, DISTILBERT)
