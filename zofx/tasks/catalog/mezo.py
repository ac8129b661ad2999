"""The tasks of the zeroth-order papers, by hub data set.

Settings follow Malladi et al. 2023 (arXiv 2305.17333): 1000 / 500 / 1000 examples, dev 100 for CB
and COPA, rows of at most 2048 tokens, the hub's validation split as test set. WinoGrande follows
ZO-Bench: dev 100, the medium training set. WSC has dev 100 here too: 500 would leave 54 of its 554
records to train on.
"""

from functools import partial

from zofx.tasks.catalog import templates
from zofx.tasks.data.pool import Sizes
from zofx.tasks.data.sources import hub
from zofx.tasks.types import Task

CARD = "as on the data set's card"
SMALL_DEV = Sizes(dev=100)

SST2 = Task(
    name="sst2",
    summary="sentiment of film-review sentences, two classes",
    source="nyu-mll/glue, sst2",
    licence=CARD,
    kind="classification",
    load=partial(hub, "nyu-mll/glue", "sst2"),
    template=templates.sst2,
    masked=templates.sst2_masked,
)

RTE = Task(
    name="rte",
    summary="textual entailment, two classes",
    source="aps/super_glue, rte",
    licence=CARD,
    kind="classification",
    load=partial(hub, "aps/super_glue", "rte"),
    template=templates.rte,
    masked=templates.rte_masked,
)

CB = Task(
    name="cb",
    summary="CommitmentBank entailment, three classes, 250 training records",
    source="aps/super_glue, cb",
    licence=CARD,
    kind="classification",
    load=partial(hub, "aps/super_glue", "cb"),
    template=templates.cb,
    masked=templates.cb_masked,
    sizes=SMALL_DEV,
)

BOOLQ = Task(
    name="boolq",
    summary="yes/no questions about Wikipedia passages",
    source="google/boolq",
    licence="CC BY-SA 3.0",
    kind="classification",
    load=partial(hub, "google/boolq"),
    template=templates.boolq,
)

WSC = Task(
    name="wsc",
    summary="Winograd schemas: does a pronoun refer to a noun",
    source="aps/super_glue, wsc.fixed",
    licence=CARD,
    kind="classification",
    load=partial(hub, "aps/super_glue", "wsc.fixed"),
    template=templates.wsc,
    sizes=SMALL_DEV,
)

WIC = Task(
    name="wic",
    summary="words in context: same meaning in two sentences or not",
    source="aps/super_glue, wic",
    licence=CARD,
    kind="classification",
    load=partial(hub, "aps/super_glue", "wic"),
    template=templates.wic,
)

MULTIRC = Task(
    name="multirc",
    summary="is an answer to a question about a paragraph correct",
    source="aps/super_glue, multirc",
    licence=CARD,
    kind="classification",
    load=partial(hub, "aps/super_glue", "multirc"),
    template=templates.multirc,
)

COPA = Task(
    name="copa",
    summary="choice of the plausible cause or effect, 400 training records",
    source="aps/super_glue, copa",
    licence=CARD,
    kind="multiple-choice",
    load=partial(hub, "aps/super_glue", "copa"),
    template=templates.copa,
    sizes=SMALL_DEV,
)

RECORD = Task(
    name="record",
    summary="cloze questions about news, answered by an entity of the passage",
    source="aps/super_glue, record",
    licence=CARD,
    kind="multiple-choice",
    load=partial(hub, "aps/super_glue", "record"),
    template=templates.record_cloze,
)

SQUAD = Task(
    name="squad",
    summary="answers extracted from Wikipedia paragraphs, generated",
    source="rajpurkar/squad",
    licence="CC BY-SA 4.0",
    kind="generation",
    load=partial(hub, "rajpurkar/squad"),
    template=templates.squad,
)

DROP = Task(
    name="drop",
    summary="questions that need counting or comparing in a paragraph, generated",
    source="ucinlp/drop",
    licence=CARD,
    kind="generation",
    load=partial(hub, "ucinlp/drop"),
    template=templates.drop,
)

WINOGRANDE = Task(
    name="winogrande",
    summary="which of two nouns fills the gap of a sentence",
    source="allenai/winogrande, winogrande_m",
    licence=CARD,
    kind="multiple-choice",
    load=partial(hub, "allenai/winogrande", "winogrande_m"),
    template=templates.winogrande,
    sizes=SMALL_DEV,
)
