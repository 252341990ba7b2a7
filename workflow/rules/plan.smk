"""What the study will cost: stages, device-hours, disk, downloads. Printed anew by every call, never part of `all`."""

import shlex


localrules:
    plan,


rule plan:
    log:
        f"logs/plan/{PLAN.tag}.log",
    conda:
        "../../environment.yml"
    params:
        words=shlex.join(
            f"{key}={shlex.join(value) if isinstance(value, list) else value}" for key, value in config.items()
        ),
    message:
        "What this study costs"
    shell:
        "python -m novelview.stages.plan {params.words} 2>&1 | tee {log}"
