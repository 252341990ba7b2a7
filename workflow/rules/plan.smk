"""What the study will cost: stages, device-hours, disk, downloads. Printed anew by every call, never part of `all`."""


localrules:
    plan,


rule plan:
    log:
        f"logs/plan/{PLAN.tag}.log",
    conda:
        "../envs/novelview.yaml"
    params:
        words=PLAN.words,
    message:
        "What this study costs"
    shell:
        "python -m novelview.stages.plan {params.words} 2>&1 | tee {log}"
