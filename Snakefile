"""novelview: snakemake --cores all [--config study=less3depend scale=demo]"""

from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        f"{PLAN.results}/report/index.html",


onstart:
    refuse_linked_records()


include: "workflow/rules/fetch.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/views.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/publish.smk"
include: "workflow/rules/plan.smk"
