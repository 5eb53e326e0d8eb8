# The binary and the stores that it can embed.
#   docker build -t seckill . && docker run -p 8080:8080 -v seckill:/data seckill
# With REDIS_URL and DATABASE_URL set, the container and the volume store nothing.

FROM rust:1-bookworm AS build
WORKDIR /src

# Backtraces keep function names; line numbers would be a fifth of the image.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo

# The dependencies are a layer of their own, built with an empty program: it is rebuilt only when Cargo.toml or
# Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
COPY model/Cargo.toml model/
COPY tests/support/Cargo.toml tests/support/
RUN mkdir src model/src tests/support/src \
    && touch model/src/lib.rs tests/support/src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && cargo clean --release --locked -p seckill \
    && rm -r src

COPY . .
RUN cargo build --release --locked --bin seckill


FROM debian:bookworm-slim

# Debian's packages without a database cluster. LLVM and the bitcode are removed: our statements are too short for
# compilation at run time to pay off.
RUN mkdir -p /etc/postgresql-common/createcluster.d \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/seckill.conf \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates postgresql redis-server \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/log/* \
        /usr/lib/postgresql/*/lib/bitcode /usr/lib/postgresql/*/lib/llvmjit* \
        /usr/lib/*/libLLVM-* /usr/lib/*/libz3.so*

# The id is fixed, so that a volume has the same owner in every image.
RUN groupadd --system --gid 10001 seckill \
    && useradd --system --uid 10001 --gid seckill --home-dir /data --no-create-home \
        --shell /usr/sbin/nologin seckill \
    && install -d -o seckill -g seckill -m 0711 /data

COPY --from=build /src/target/release/seckill /usr/local/bin/seckill

ENV SECKILL_DATA_DIR=/data SECKILL_LISTEN=0.0.0.0:8080
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/seckill", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/seckill"]
CMD ["serve"]
