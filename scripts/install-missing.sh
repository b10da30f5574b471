#!/usr/bin/env bash
# Installs what this machine lacks of what building needs, and with the argument `test` what testing
# needs as well: with apt-get when run as root, otherwise it says in one line what is missing, and
# exits 1.
set -euo pipefail

if ! command -v cargo >/dev/null; then
    echo "missing: cargo; install Rust with rustup, which then follows rust-toolchain.toml" >&2
    exit 1
fi

missing=()
needs() { # package, command that succeeds when it is there
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
java_17() {
    local version
    version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
    [ "${version:-0}" -ge 17 ]
}

# librdkafka is compiled from source, with TLS and gzip of the system.
needs gcc command -v cc
needs g++ command -v c++
needs make command -v make
needs pkg-config command -v pkg-config
needs zlib1g-dev pkg-config --exists zlib
needs libssl-dev pkg-config --exists openssl
if [ "${1:-}" = test ]; then
    # Tests fetch Apache Kafka with Maven, run it, and make certificates for it.
    needs default-jre-headless java_17
    needs maven command -v mvn
    needs openssl command -v openssl
    # Others fetch moto, which speaks S3, with pip, and run it.
    needs python3-venv python3 -c "import ensurepip, venv"
fi

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]} (Debian's names); install them, or run this as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends ca-certificates "${missing[@]}"
