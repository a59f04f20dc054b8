# The pipeline lab: the base lab and the Roman stack, a layer for each part, the one that changes least first. Build with
# images/build, which names the base lab as its base.
ARG BASE=localhost/meridian-lab

FROM ${BASE} AS software
USER root
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates --mount=type=bind,source=images,target=/run/images \
    sh /run/images/pip-install /opt/lab/bin/pip /run/images/requirements/catalogue.lock
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates --mount=type=bind,source=images,target=/run/images \
    sh /run/images/pip-install /opt/lab/bin/pip /run/images/requirements/roman.lock
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates --mount=type=bind,source=images,target=/run/images \
    sh /run/images/pip-install /opt/lab/bin/pip /run/images/requirements/psf.lock
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates --mount=type=bind,source=images,target=/run/images \
    sh /run/images/pip-install /opt/lab/bin/pip /run/images/requirements/viz.lock

FROM software AS bill
RUN --mount=type=secret,id=pip --mount=type=secret,id=certificates --mount=type=bind,source=images,target=/run/images \
    python3 -m venv /opt/tools && sh /run/images/pip-install /opt/tools/bin/pip /run/images/requirements/tools.lock
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o /usr/share/meridian/sbom.cdx.json /opt/lab/bin/python

FROM software
COPY --from=bill /usr/share/meridian/sbom.cdx.json /usr/share/meridian/sbom.cdx.json
USER 1000:100
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Meridian pipeline lab" \
      org.opencontainers.image.description="The base lab with the Roman pipeline, simulation, catalogues and viewers" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
