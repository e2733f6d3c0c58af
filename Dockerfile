# The image of kubernetes/rayjob.yaml, for machines with and without GPUs: torch's wheels bring CUDA's libraries.
#   docker build -t REGISTRY/emo_ray:0.1.0 . && docker push REGISTRY/emo_ray:0.1.0
FROM python:3.12-slim

# KubeRay asks Ray with wget whether it is well.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray

WORKDIR /opt/emo_ray
COPY requirements.lock ./
# The lock is complete, so --no-deps keeps pip from resolving anything by itself.
RUN pip install --no-cache-dir --no-deps -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY emo_ray emo_ray
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER ray
WORKDIR /home/ray
CMD ["emo-ray", "--help"]
