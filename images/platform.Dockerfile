# The platform's own processes, as two targets over the same layers: `hub`, and `allocations` for service, worker and
# batch. Build with images/build. The base has Python 3.11 with venv.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS tools
COPY images/pip-install images/requirements/tools.lock /run/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    python3 -m venv /opt/tools && sh /run/pip-install /opt/tools/bin/pip /run/tools.lock

FROM tools AS software
COPY images/requirements/platform.lock /run/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    python3 -m venv --without-pip /opt/meridian \
    && sh /run/pip-install /opt/tools/bin/pip /run/platform.lock --python /opt/meridian/bin/python

FROM software AS project
COPY images/project-install /run/
COPY pyproject.toml README.md LICENSE /run/meridian/
COPY allocations /run/meridian/allocations
COPY hub /run/meridian/hub
RUN sh /run/project-install /opt/meridian /run/meridian

FROM ${BASE} AS platform
RUN groupadd --gid 1000 meridian && useradd --uid 1000 --gid 1000 --create-home meridian \
    && install -d -o meridian -g meridian /srv/jupyterhub /srv/meridian
COPY --from=software /opt/meridian /opt/meridian
COPY policies /etc/meridian/policies
COPY example-notebooks/*.ipynb /usr/share/meridian/example-notebooks/
COPY images/healthy /usr/local/bin/healthy
COPY --from=project /opt/project /opt/meridian
# The pages' one script from npm, where a checkout has it too: beside the packages.
COPY node_modules/htmx.org/dist/htmx.min.js /opt/meridian/lib/python3.11/site-packages/node_modules/htmx.org/dist/
COPY --from=project /run/sbom.cdx.json /usr/share/meridian/
ENV PATH=/opt/meridian/bin:/usr/local/bin:/usr/bin:/bin \
    MERIDIAN_POLICIES=/etc/meridian/policies \
    MERIDIAN_EXAMPLES=/usr/share/meridian/example-notebooks \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 1000:1000

FROM platform AS hub
WORKDIR /srv/jupyterhub
EXPOSE 8081
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python3", "/usr/local/bin/healthy", "hub"]
CMD ["jupyterhub", "--config", "/usr/local/etc/jupyterhub/jupyterhub_config.py"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Meridian hub" \
      org.opencontainers.image.description="JupyterHub with Meridian's spawners, within leases" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM platform AS allocations
WORKDIR /srv/meridian
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python3", "/usr/local/bin/healthy", "allocations"]
CMD ["meridian", "serve"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Meridian allocations" \
      org.opencontainers.image.description="Allocations accounted to the second: service, worker and batch" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
