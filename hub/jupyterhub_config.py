"""JupyterHub's configuration, read entirely from the environment; see docs for each variable.

`jupyterhub -f hub/jupyterhub_config.py` with another process running configurable-http-proxy. MERIDIAN_MODE says
how: `local` on one machine, `kubernetes` as the chart installs it. A mistake in the environment ends the hub with one
sentence.
"""

from __future__ import annotations

from hub import configuration
from hub.modes import kubernetes, local
from hub.modes.environment import refuse, required

MODES = {"local": local.configure, "kubernetes": kubernetes.configure}

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - traitlets puts it into this file's namespace
mode = required("MERIDIAN_MODE")
if mode not in MODES:
    raise refuse(f"MERIDIAN_MODE must be {' or '.join(MODES)}, not {mode!r}.")
installation = MODES[mode](c)
c.JupyterHub.allow_named_servers = True
configuration.configure(c, installation, local=mode == "local")
configuration.begin(installation, local=mode == "local")
