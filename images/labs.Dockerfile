# The labs, for people's servers and batch runs, as three targets: `lab`, the base lab with JupyterLab and the field's
# packages, and over the same layers `pipeline`, which has the Roman stack, and `gpu`, which has JAX and CuPy with CUDA's
# libraries. What changes least comes first, the project's own part last. Build with images/build. The base has Python
# 3.11 with venv.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS tools
COPY images/pip-install images/requirements/tools.lock /run/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    python3 -m venv /opt/tools && sh /run/pip-install /opt/tools/bin/pip /run/tools.lock

FROM tools AS sources
COPY images/project-install /run/
COPY pyproject.toml README.md LICENSE /run/meridian/
COPY allocations /run/meridian/allocations
COPY hub /run/meridian/hub
COPY example-notebooks /run/example-notebooks

FROM ${BASE} AS lab-software
# What the base lacks of what a person's server needs beside Python: git, and a first process that reaps the others.
RUN command -v git && command -v tini \
    || { apt-get update && apt-get install -y --no-install-recommends git tini && rm -rf /var/lib/apt/lists/*; }
RUN useradd --uid 1000 --gid 100 --create-home jovyan
COPY images/pip-install /usr/local/lib/meridian/
COPY images/requirements/lab.lock /usr/share/meridian/requirements/
# With the system's packages a virtual environment sees a person's own too, after its own: they can add, not break.
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    python3 -m venv --system-site-packages /opt/lab \
    && sh /usr/local/lib/meridian/pip-install /opt/lab/bin/pip /usr/share/meridian/requirements/lab.lock
ENV HOME=/home/jovyan \
    PATH=/opt/lab/bin:/usr/local/bin:/usr/bin:/bin:/home/jovyan/.local/bin \
    PYTHONUSERBASE=/home/jovyan/.local \
    PYTHONDONTWRITEBYTECODE=1 \
    MERIDIAN_EXAMPLES=/usr/share/meridian/example-notebooks \
    LANG=C.UTF-8
WORKDIR /home/jovyan
EXPOSE 8888
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python3", "/usr/local/bin/healthy", "lab"]
ENTRYPOINT ["tini", "--"]
CMD ["jupyterhub-singleuser"]

FROM lab-software AS lab-project
COPY --from=sources /opt/tools /opt/tools
COPY --from=sources /run/ /run/
RUN sh /run/project-install /opt/lab /run/meridian /run/example-notebooks

FROM lab-software AS lab
COPY images/healthy /usr/local/bin/healthy
COPY example-notebooks/*.ipynb /usr/share/meridian/example-notebooks/
COPY hub/spawner/lab_config/ /opt/lab/etc/jupyter/
COPY hub/lab/share/ /opt/lab/share/jupyter/
COPY --from=lab-project /opt/project /opt/lab
COPY --from=lab-project /run/sbom.cdx.json /usr/share/meridian/
USER 1000:100
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Meridian base lab" \
      org.opencontainers.image.description="JupyterLab with astropy, asdf, roman_datamodels, gwcs and photutils" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM lab-software AS pipeline-software
COPY images/requirements/catalogue.lock /usr/share/meridian/requirements/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    sh /usr/local/lib/meridian/pip-install /opt/lab/bin/pip /usr/share/meridian/requirements/catalogue.lock
COPY images/requirements/roman.lock /usr/share/meridian/requirements/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    sh /usr/local/lib/meridian/pip-install /opt/lab/bin/pip /usr/share/meridian/requirements/roman.lock
COPY images/requirements/psf.lock /usr/share/meridian/requirements/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    sh /usr/local/lib/meridian/pip-install /opt/lab/bin/pip /usr/share/meridian/requirements/psf.lock
COPY images/requirements/viz.lock /usr/share/meridian/requirements/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    sh /usr/local/lib/meridian/pip-install /opt/lab/bin/pip /usr/share/meridian/requirements/viz.lock

FROM pipeline-software AS pipeline-project
COPY --from=sources /opt/tools /opt/tools
COPY --from=sources /run/ /run/
RUN sh /run/project-install /opt/lab /run/meridian /run/example-notebooks

FROM pipeline-software AS pipeline
COPY images/healthy /usr/local/bin/healthy
COPY example-notebooks/*.ipynb /usr/share/meridian/example-notebooks/
COPY hub/spawner/lab_config/ /opt/lab/etc/jupyter/
COPY hub/lab/share/ /opt/lab/share/jupyter/
COPY --from=pipeline-project /opt/project /opt/lab
COPY --from=pipeline-project /run/sbom.cdx.json /usr/share/meridian/
# Else jdaviz complains that it cannot write into the image.
ENV SOLARA_ASSETS_PROXY=false
USER 1000:100
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Meridian pipeline lab" \
      org.opencontainers.image.description="The base lab with the Roman pipeline, simulation, catalogues and viewers" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM lab-software AS gpu-software
COPY images/requirements/gpu.lock /usr/share/meridian/requirements/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    sh /usr/local/lib/meridian/pip-install /opt/lab/bin/pip /usr/share/meridian/requirements/gpu.lock

FROM gpu-software AS gpu-project
COPY --from=sources /opt/tools /opt/tools
COPY --from=sources /run/ /run/
RUN sh /run/project-install /opt/lab /run/meridian /run/example-notebooks

FROM gpu-software AS gpu
COPY images/healthy /usr/local/bin/healthy
COPY example-notebooks/*.ipynb /usr/share/meridian/example-notebooks/
COPY hub/spawner/lab_config/ /opt/lab/etc/jupyter/
COPY hub/lab/share/ /opt/lab/share/jupyter/
COPY --from=gpu-project /opt/project /opt/lab
COPY --from=gpu-project /run/sbom.cdx.json /usr/share/meridian/
# What the node's NVIDIA runtime gives to a container that has a GPU: the driver's libraries for computing. Without a
# paid GPU the spawner makes none visible. JAX takes memory as it needs it, not three quarters of the GPU at once.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    XLA_PYTHON_CLIENT_PREALLOCATE=false
USER 1000:100
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Meridian GPU lab" \
      org.opencontainers.image.description="The base lab with JAX and CuPy for NVIDIA GPUs" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
