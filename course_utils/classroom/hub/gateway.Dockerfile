# The image of the gateway: LiteLLM, with the version that litellm.yaml was tried with. From the repository's root:
#
#   docker build -f course_utils/classroom/hub/gateway.Dockerfile -t REGISTRY/course-gateway:TERM course_utils/classroom/hub
FROM python:3.12-slim-bookworm
ARG LITELLM=1.108.7
RUN pip install --no-cache-dir "litellm[proxy]==${LITELLM}" \
    && useradd --create-home --uid 1000 gateway
COPY litellm.yaml litellm_keys.py /etc/gateway/
# No pages of documentation; what an administrator's page would show needs a database, and there is none.
ENV DISABLE_ADMIN_UI=True NO_DOCS=True NO_REDOC=True
USER gateway
# Inside a cluster it has to listen beyond the container's loopback; outside, publish it as 127.0.0.1:4000:4000.
CMD ["litellm", "--config", "/etc/gateway/litellm.yaml", "--host", "0.0.0.0", "--port", "4000"]
