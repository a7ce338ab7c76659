# CPU:  docker build -t sb3_mirl .
# CUDA: docker build -t sb3_mirl:cuda --build-arg TORCH=cuda .     (run it with --gpus all)
FROM python:3.11-slim
ARG TORCH=cpu

# what OpenCV, SDL and MuJoCo's offscreen rendering need
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libegl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sb3_mirl
COPY constraints.txt pyproject.toml README.md LICENSE ./
# PyTorch first and alone: it is the largest layer, and changes least. On PyPI it is the build for CUDA
RUN if [ "$TORCH" = cpu ]; then \
        pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu; \
    else \
        pip install --no-cache-dir -c constraints.txt torch; \
    fi
COPY sb3_mirl sb3_mirl
COPY zoo_configs zoo_configs
RUN pip install --no-cache-dir -c constraints.txt '.[all]'
COPY examples examples

# logs/ and runs/ of the commands end here: mount it
WORKDIR /work
ENV SDL_VIDEODRIVER=dummy OMP_NUM_THREADS=1
ENTRYPOINT ["sb3_mirl"]
CMD ["--help"]
