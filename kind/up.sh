#!/usr/bin/env bash
# A kind cluster that kind/params-PROFILE.yaml runs on. Can be run again: what is there is kept.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: kind/up.sh cpu|gpu [IMAGE...]

IMAGE: images of this machine's Docker to load into the cluster (rcarena/tasks:0.1.0, rcarena/serve-cpu:0.1.0, ...).

KIND_NODE_IMAGE   node image (default: the one of the installed kind)
KUBECONFIG        where the cluster's credentials are added (default: ~/.kube/config)
TEXT
}

fail() { printf 'kind/up.sh: %s\n' "$1" >&2; exit "${2:-1}"; }

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    cpu | gpu) profile=$1; shift ;;
    *) usage >&2; exit 2 ;;
esac
here=$(cd -P "$(dirname "$0")" && pwd)
cluster=rcarena
node=$cluster-control-plane
gateway_api=https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.0/standard-install.yaml

for tool in docker kind kubectl helm; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done
docker info >/dev/null 2>&1 || fail "Docker does not answer: start it, or join its group"

if [ "$profile" = gpu ]; then
    command -v nvidia-smi >/dev/null || fail "nvidia-smi is not here: install NVIDIA's driver (580 or newer for CUDA 13)"
    docker info --format '{{.DefaultRuntime}}' | grep -q nvidia ||
        fail "Docker's default runtime is not nvidia: sudo nvidia-ctk runtime configure --runtime=docker --set-as-default && sudo systemctl restart docker"
    grep -Eqs '^[[:space:]]*accept-nvidia-visible-devices-as-volume-mounts[[:space:]]*=[[:space:]]*true' /etc/nvidia-container-runtime/config.toml ||
        fail "NVIDIA's runtime does not take GPUs from mounts: sudo nvidia-ctk config --set accept-nvidia-visible-devices-as-volume-mounts=true --in-place"
fi

if kind get clusters 2>/dev/null | grep -qx "$cluster"; then
    echo "cluster $cluster: already there"
else
    kind create cluster --config "$here/cluster-$profile.yaml" --wait 180s ${KIND_NODE_IMAGE:+--image "$KIND_NODE_IMAGE"}
fi
# The node inherits the host's limits on watches; Prometheus, Alloy and Istio need more than the usual 128.
docker exec "$node" sysctl -qw fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=1048576

if [ "$profile" = gpu ]; then
    docker exec "$node" sh -c 'ls /dev/nvidia[0-9]* >/dev/null 2>&1' ||
        fail "the node sees no GPU although the cluster exists: kind/down.sh, then again"
    # The toolkit's hook looks for the name that Ubuntu gives to ldconfig.
    docker exec "$node" sh -c '[ -e /sbin/ldconfig.real ] || ln -s /sbin/ldconfig /sbin/ldconfig.real'
    # Docker masks the driver's files; pods must be able to mount them.
    docker exec "$node" sh -c 'while grep -q " /proc/driver/nvidia" /proc/mounts; do umount -R /proc/driver/nvidia || exit 1; done'
fi

for image in "$@"; do
    kind load docker-image --name "$cluster" "$image"
done
kubectl --context "kind-$cluster" apply --server-side --filename "$gateway_api"
kubectl --context "kind-$cluster" wait --for=condition=Established crd/gateways.gateway.networking.k8s.io --timeout=60s
echo "ready: rcarena deploy preflight --params kind/params-$profile.yaml"
