"""Model families: how to load one, which layers adapt by default, how a batch enters it."""

from ravan_export.families.bert import BERT
from ravan_export.families.deit import DEIT
from ravan_export.families.distilbert import DISTILBERT
from ravan_export.families.family import Family, Form
from ravan_export.families.gemma import GEMMA
from ravan_export.families.llama import LLAMA
from ravan_export.families.modernbert import MODERNBERT
from ravan_export.families.qwen import QWEN
from ravan_export.families.roberta import ROBERTA
from ravan_export.families.t5 import MT5, T5
from ravan_export.families.vit import VIT

__all__ = ["FAMILIES", "Family", "Form"]

FAMILIES: tuple[Family, ...] = (
    BERT,
    ROBERTA,
    DISTILBERT,
    MODERNBERT,
    LLAMA,
    QWEN,
    GEMMA,
    T5,
    MT5,
    VIT,
    DEIT,
)
