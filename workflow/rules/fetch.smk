"""Published files of conf/registry.yaml, on the machine that runs Snakemake: compute nodes need no network."""

import re

from novelview.downloads.registry import read_registry, targets

FETCHED = targets(read_registry())


localrules:
    fetch_published,


rule fetch_published:
    output:
        "{published}",
    log:
        "logs/fetch/{published}.log",
    wildcard_constraints:
        published="|".join(map(re.escape, FETCHED)),
    conda:
        "../envs/novelview.yaml"
    resources:
        mem_mb=1500,
        runtime=2880,
    params:
        name=lambda wildcards: FETCHED[wildcards.published],
    message:
        "Fetching {params.name}"
    shell:
        "python -m novelview.stages.fetch {params.name} 2>&1 | tee {log}"
