# shellcheck shell=bash
# To be sourced. Chooses the engine that builds and runs the image: docker if its daemon answers, otherwise Debian's
# podman with runc, which needs no daemon and no image registry. podman gets a store of its own, so that the machine's
# podman is not touched. The store stays in the cache, so that the next build is short.

engine_cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/seckill-container
# podman detects a reboot because a reboot empties this folder.
engine_run=/run/seckill-container
engine_store_limit_mib=12288
base_tar_days=30
build_limit_s=1800

choose_engine() {
  mkdir -p "$engine_cache"
  exec {engine_lock}>"$engine_cache/lock"
  flock --wait 900 "$engine_lock" || {
    echo "another run has held $engine_cache/lock for 15 minutes: stop it, then try again" >&2
    return 1
  }
  if timeout 20 docker info --format '{{.ServerVersion}}' >/dev/null 2>&1; then
    engine_kind=docker
    engine_command=(docker)
  else
    engine_kind=podman
    engine_command=(podman --root "$engine_cache/store" --runroot "$engine_run/root" --tmpdir "$engine_run/tmp")
    prepare_podman
  fi
  echo "engine: $engine_kind"
}

engine() { "${engine_command[@]}" "$@" {engine_lock}>&-; }

build_image() {
  if [[ $engine_kind == docker ]]; then
    timeout "$build_limit_s" docker build --tag "$1" .
  else
    prepare_base_images
    timeout "$build_limit_s" "${engine_command[@]}" build --tag "$1" "${podman_build_flags[@]}" .
  fi
}

# --- podman ---------------------------------------------------------------------------------------

toolchain_in_build=/mnt/toolchain
ca_bundle_in_build=/mnt/ca-certificates.crt
podman_build_flags=(--pull=never --isolation chroot --format docker)

prepare_podman() {
  if ((EUID != 0)); then
    echo "no docker engine answers, and podman is used as root only: start docker, or run this as root" >&2
    return 1
  fi
  scripts/install-packages container
  write_podman_settings
  export CONTAINERS_CONF=$engine_cache/containers.conf
  # The health check is started by the test: systemd, which podman would use as a timer, may be missing.
  export DISABLE_HC_SYSTEMD=true
  # What a killed run left would count as part of the store.
  release_engine
  drop_an_oversized_store
  drop_leftovers
}

# podman's usual limits, lowered to what an ordinary hard limit allows.
write_podman_settings() {
  cat >"$engine_cache/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
}

# Each build of changed sources leaves layers in the store.
drop_an_oversized_store() {
  local used_mib
  used_mib=$(du --summarize --block-size=1M "$engine_cache" | cut -f1)
  ((used_mib > engine_store_limit_mib)) || return 0
  rm -rf "$engine_cache/store" "$engine_run"
}

# Removes what a killed run left. No other run uses the store while this one holds the lock.
drop_leftovers() {
  engine rm --all --force --volumes >/dev/null
  engine volume prune --force >/dev/null
}

# Makes substitutes for the two images that the Dockerfile starts from.
prepare_base_images() {
  make_base_tar
  engine image exists docker.io/library/debian:bookworm-slim ||
    engine import --quiet --change 'CMD ["bash"]' "$engine_cache/base.tar" docker.io/library/debian:bookworm-slim
  find_toolchain
  build_rust_base
}

make_base_tar() {
  local tar=$engine_cache/base.tar
  [[ -z $(find "$tar" -mtime "-$base_tar_days" 2>/dev/null) ]] || return 0
  echo "making a Debian base image"
  engine image rm --force docker.io/library/debian:bookworm-slim >/dev/null 2>&1 || true
  write_apt_settings
  # Slim like the real image: no manuals, and installation starts no services.
  # shellcheck disable=SC2016 # expanded by mmdebstrap
  mmdebstrap --quiet --format=tar --variant=minbase --aptopt="$engine_cache/apt.conf" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"' \
    --customize-hook='chmod 0755 "$1/usr/sbin/policy-rc.d"' \
    bookworm "$tar.part"
  mv "$tar.part" "$tar"
}

# The build needs the machine's proxy settings for Debian's archive.
write_apt_settings() {
  apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-|Languages)' >"$engine_cache/apt.conf" || true
}

find_toolchain() {
  local sysroot ca_bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  sysroot=$(rustc --print sysroot)
  if [[ $sysroot == /usr || ! -x $sysroot/bin/cargo ]]; then
    echo "the Rust toolchain at $sysroot cannot be mounted into the build: install one from https://rustup.rs" >&2
    return 1
  fi
  mkdir -p "$engine_cache/cargo-registry"
  podman_build_flags+=(
    --volume "$sysroot:$toolchain_in_build:ro"
    --volume "$(realpath "$ca_bundle"):$ca_bundle_in_build:ro"
    --volume "$engine_cache/cargo-registry:/usr/local/cargo/registry"
  )
}

build_rust_base() {
  engine build --quiet --pull=never --isolation chroot --format docker \
    --tag docker.io/library/rust:1-bookworm - >/dev/null <<DOCKERFILE
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make && rm -rf /var/lib/apt/lists/*
ENV CARGO_HOME=/usr/local/cargo CARGO_HTTP_CAINFO=$ca_bundle_in_build PATH=$toolchain_in_build/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
DOCKERFILE
}

# podman leaves its store bind-mounted on itself, and a killed build its layers inside. The last mount comes first.
release_engine() {
  [[ ${engine_kind-} == podman ]] || return 0
  local mounted
  while read -r mounted; do
    umount "$mounted"
  done < <(findmnt --raw --noheadings --output TARGET | grep -E "^($engine_cache/store|$engine_run)/" | tac)
}
