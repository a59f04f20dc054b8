# The pipeline lab: the base lab and the Roman stack, a layer for each part, the one that changes least first. Build with
# images/build, which names the base lab as its base.
ARG BASE=localhost/meridian-lab

FROM ${BASE} AS software
USER root
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

FROM software AS bill
COPY images/requirements/tools.lock /run/
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates \
    python3 -m venv /opt/tools && sh /usr/local/lib/meridian/pip-install /opt/tools/bin/pip /run/tools.lock
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o /run/sbom.cdx.json /opt/lab/bin/python

FROM software
COPY --from=bill /run/sbom.cdx.json /usr/share/meridian/
USER 1000:100
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Meridian pipeline lab" \
      org.opencontainers.image.description="The base lab with the Roman pipeline, simulation, catalogues and viewers" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
