# The two commands of the README, each as an image.
#
#   docker build -t denoised-mdp . && docker run --rm -v "$PWD/runs:/denoised-mdp/runs" denoised-mdp
#   docker build --target test -t denoised-mdp-test . && docker run --rm denoised-mdp-test
#
# The first trains, evaluates and draws into runs/quickstart, the second runs the linters and the tests. Any other command
# goes at the end: docker run --rm -v "$PWD/runs:/denoised-mdp/runs" denoised-mdp denoised-mdp train size=debug
FROM python:3.12-slim AS base
# For render.backend=egl; which version of them does not matter.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libegl1 libgl1 && rm -rf /var/lib/apt/lists/*
WORKDIR /denoised-mdp
# What setup.sh reads, so that a change of the code does not fetch all packages anew.
COPY pyproject.toml requirements.txt requirements-3.12.lock README.md LICENSE ./
COPY denoised_mdp/__init__.py denoised_mdp/
COPY scripts/setup.sh scripts/
RUN bash scripts/setup.sh core
ENV PATH="/denoised-mdp/.venv/bin:$PATH"

FROM base AS test
RUN bash scripts/setup.sh dev
COPY . .
CMD ["bash", "scripts/test.sh"]

FROM base AS quickstart
COPY . .
CMD ["bash", "scripts/quickstart.sh"]
