"""What the study will cost: stages, device-hours, disk, downloads. Printed anew by every call, never part of `all`."""

import shlex


localrules:
    plan,


rule plan:
    params:
        words=shlex.join(
            f"{key}={shlex.join(value) if isinstance(value, list) else value}" for key, value in config.items()
        ),
    message:
        "What this study costs"
    shell:
        "python -m novelview.stages.plan {params.words}"
