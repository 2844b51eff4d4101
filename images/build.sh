#!/usr/bin/env bash
# Build the images with docker, buildah or podman, whichever is there.
set -euo pipefail
cd -P "$(dirname "$0")/.."
bases=images/bases.env
all=(tasks gpu-agent serve serve-cpu airflow)

usage() {
    cat <<'TEXT'
Usage: images/build.sh [options] [NAME...]

NAME: tasks gpu-agent serve serve-cpu airflow (default: all)

  --push REGISTRY   name the images REGISTRY/rcarena/NAME:TAG and push them
  --tag TAG         default: the version in pyproject.toml
  --engine ENGINE   docker, buildah or podman (default: the first that is there)
  --platform P      for example linux/amd64
  --pip-conf FILE   pip's configuration while building (a mirror, say); it does not become part of an image
  --pin             write the digests of today's base images into images/bases.env and end (docker or skopeo)
  --dry-run         print the commands
  -h, --help

An image that is built: docker run --rm rcarena/tasks:TAG --help
TEXT
}

fail() { printf 'build.sh: %s\n' "$1" >&2; exit "${2:-1}"; }

run() {
    printf '%q ' "$@"; echo
    [ -n "$dry_run" ] || "$@"
}

value() { # value OPTION [VALUE]
    [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 needs a value" 2
    printf '%s' "$2"
}

find_engine() {
    local candidate
    for candidate in docker buildah podman; do
        if command -v "$candidate" >/dev/null; then echo "$candidate"; return; fi
    done
    fail "none of docker, buildah and podman is installed"
}

digest_of() {
    if command -v skopeo >/dev/null; then
        skopeo inspect --no-tags --format '{{.Digest}}' "docker://$1"
    else
        docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1"
    fi
}

pin() {
    local line name digest pinned
    pinned=$(mktemp)
    while IFS= read -r line; do
        if [[ $line =~ ^[A-Z_]+= ]]; then
            name=${line#*=}; name=${name%@*}
            digest=$(digest_of "$name") || fail "cannot read the digest of $name"
            [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || fail "'$digest' is not the digest of $name"
            line="${line%%=*}=$name@$digest"
        fi
        printf '%s\n' "$line"
    done <"$bases" >"$pinned"
    cat "$pinned" >"$bases"
    rm -f "$pinned"
    grep = "$bases"
}

build() { # build NAME
    local name=$1 folder=$1 image="${registry:+$registry/}rcarena/$1:$tag" arguments=() base
    case "$name" in
        serve) arguments+=(--target gpu) ;;
        serve-cpu) folder=serve; arguments+=(--target cpu) ;;
    esac
    while IFS= read -r base; do arguments+=(--build-arg "$base"); done < <(grep -E '^[A-Z_]+=' "$bases")
    arguments+=(--build-arg "VERSION=$tag" --build-arg "REVISION=$revision")
    [ -z "$platform" ] || arguments+=(--platform "$platform")
    [ -z "$pip_conf" ] || arguments+=(--secret "id=pip.conf,src=$pip_conf")
    run "$engine" build --file "images/$folder/Dockerfile" --tag "$image" "${arguments[@]}" .
    [ -z "$registry" ] || run "$engine" push "$image"
}

registry='' engine='' platform='' pip_conf='' dry_run='' pinning='' names=()
tag=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
# shellcheck disable=SC2046  # a list of names: what a hook says of its own repository
revision=$(unset $(git rev-parse --local-env-vars 2>/dev/null); git rev-parse HEAD 2>/dev/null || echo unknown)
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit ;;
        --push) registry=$(value "$@"); registry=${registry%/}; shift ;;
        --tag) tag=$(value "$@"); shift ;;
        --engine) engine=$(value "$@"); shift ;;
        --platform) platform=$(value "$@"); shift ;;
        --pip-conf) pip_conf=$(value "$@"); shift ;;
        --pin) pinning=yes ;;
        --dry-run) dry_run=yes ;;
        -*) fail "unknown option '$1'; see --help" 2 ;;
        *)
            [[ " ${all[*]} " == *" $1 "* ]] || fail "unknown image '$1'; allowed: ${all[*]}" 2
            names+=("$1")
            ;;
    esac
    shift
done
if [ -n "$pinning" ]; then pin; exit; fi
[ -n "$engine" ] || engine=$(find_engine)
[[ " docker buildah podman " == *" $engine "* ]] || fail "unknown engine '$engine'; allowed: docker, buildah, podman" 2
[ -z "$pip_conf" ] || [ -r "$pip_conf" ] || fail "--pip-conf: cannot read $pip_conf" 2
[ "${#names[@]}" -gt 0 ] || names=("${all[@]}")
for name in "${names[@]}"; do build "$name"; done
