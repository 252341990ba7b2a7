"""novelview: snakemake --cores all [--config study=less3depend scale=demo]"""

from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.basedir}/conf/workflow.yaml"


include: "workflow/rules/common.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        f"{PLAN.results}/report/index.html",
        # Asked for themselves, so that a deleted one is missed although the report stands.
        [f"{PLAN.results}/figures/{figure}.png" for figure in PLAN.figures],
        [f"{PLAN.results}/tables/{table}.md" for table in PLAN.tables],


onstart:
    gc.enable()
    refuse_linked_records()


include: "workflow/rules/fetch.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/poses.smk"
include: "workflow/rules/pointmaps.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/showcase.smk"
include: "workflow/rules/views.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/publish.smk"
include: "workflow/rules/plan.smk"
