# The base lab: JupyterLab and the field's packages, for people's servers and batch runs. Build with images/build.
# The base has Python 3.11 with venv.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS tools
COPY images/pip-install images/requirements/tools.lock /run/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    python3 -m venv /opt/tools && sh /run/pip-install /opt/tools/bin/pip /run/tools.lock

FROM ${BASE} AS software
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

FROM software AS project
COPY --from=tools /opt/tools /opt/tools
COPY images/project-install /run/
COPY pyproject.toml README.md LICENSE /run/meridian/
COPY allocations /run/meridian/allocations
COPY hub /run/meridian/hub
COPY example-notebooks /run/example-notebooks
RUN sh /run/project-install /opt/lab /run/meridian /run/example-notebooks

FROM software
COPY images/healthy /usr/local/bin/healthy
COPY example-notebooks/*.ipynb /usr/share/meridian/example-notebooks/
COPY --from=project /opt/project /opt/lab
COPY --from=project /run/sbom.cdx.json /usr/share/meridian/
ENV HOME=/home/jovyan \
    PATH=/opt/lab/bin:/usr/local/bin:/usr/bin:/bin:/home/jovyan/.local/bin \
    PYTHONUSERBASE=/home/jovyan/.local \
    PYTHONDONTWRITEBYTECODE=1 \
    MERIDIAN_EXAMPLES=/usr/share/meridian/example-notebooks \
    LANG=C.UTF-8
WORKDIR /home/jovyan
USER 1000:100
EXPOSE 8888
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python3", "/usr/local/bin/healthy", "lab"]
ENTRYPOINT ["tini", "--"]
CMD ["jupyterhub-singleuser"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Meridian base lab" \
      org.opencontainers.image.description="JupyterLab with astropy, asdf, roman_datamodels, gwcs and photutils" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
