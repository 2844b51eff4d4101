#!/usr/bin/env bash
# A small serving stack as somebody starts it by hand, with no command of RCArena: three `vllm serve`, each on a machine
# of its own (a network namespace and a cgroup) with a node exporter, NGINX before them with its exporter, a Prometheus.
#
#   unshare --fork --kill-child --pid --mount --net --mount-proc benchmarks/strangers_stack.sh DIR MODEL
#
# DIR: configuration and logs. MODEL: directory of a model. Root; Ctrl-C ends everything. From elsewhere enter by
#   nsenter --net --target "$(head -1 /sys/fs/cgroup/cpu/stranger/nginx/cgroup.procs)"       (cgroup v2: without cpu/)
# Environment: VLLM, NODE_EXPORTER (programs; vllm, prometheus-node-exporter), CORES of a replica (0.6), REPLICAS (3),
# SHARES of CPU (v1) of the stack against other work of the machine (1024).
set -euo pipefail
dir=$(realpath -m "$1") model=$(realpath "$2")
vllm=${VLLM:-vllm} node_exporter=${NODE_EXPORTER:-prometheus-node-exporter}
replicas=$(seq 0 $((${REPLICAS:-3} - 1)))
quota=$(awk "BEGIN { print int(100000 * ${CORES:-0.6}) }")
mkdir -p "$dir" && cd "$dir"

roots=/sys/fs/cgroup
[ -e $roots/cgroup.controllers ] || roots=$(echo /sys/fs/cgroup/{cpu,cpuacct,memory,freezer})
trap 'kill $(jobs -p) 2>/dev/null; sleep 1; for r in $roots; do rmdir $r/stranger/* $r/stranger; done 2>/dev/null' EXIT
trap 'exit 0' INT TERM
within() { # CGROUP COMMAND…: run a command in a cgroup, in the background, its output to CGROUP.log
  local group=$1; shift
  for root in $roots; do mkdir -p "$root/stranger/$group"; done
  (for root in $roots; do echo 0 >"$root/stranger/$group/cgroup.procs"; done; exec "$@" >>"$dir/$group.log" 2>&1) &
}

ip link set lo up
mount -t tmpfs tmpfs /run/netns 2>/dev/null || { mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; }
ip link add stranger type bridge
ip address add 10.88.0.1/24 dev stranger
ip link set stranger up

for i in $replicas; do
  ip netns add "vllm-$i"
  ip link add "link$i" type veth peer name eth0 netns "vllm-$i"
  ip link set "link$i" master stranger up
  ip -n "vllm-$i" address add "10.88.0.1$i/24" dev eth0
  ip -n "vllm-$i" link set eth0 up
  ip -n "vllm-$i" link set lo up
  within "vllm-$i" ip netns exec "vllm-$i" env HOME="$dir" OMP_NUM_THREADS=1 VLLM_TARGET_DEVICE=cpu \
    VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 \
    sh -c 'while :; do "$@"; echo "ended with $?, starts again"; sleep 1; done' sh \
    "$vllm" serve "$model" --served-model-name toy --load-format dummy --dtype float32 --enforce-eager \
    --max-model-len 512 --max-num-seqs 16 --kv-cache-memory-bytes 64000000 --distributed-executor-backend uni \
    --host "10.88.0.1$i" --port 8000
  ip netns exec "vllm-$i" "$node_exporter" --web.listen-address="10.88.0.1$i:9100" >"node-$i.log" 2>&1 &
done
for i in $replicas; do # a machine of so many cores
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
    echo +cpu >/sys/fs/cgroup/stranger/cgroup.subtree_control
    echo "$quota 100000" >"/sys/fs/cgroup/stranger/vllm-$i/cpu.max"
  else
    echo "${SHARES:-1024}" >/sys/fs/cgroup/cpu/stranger/cpu.shares
    echo "$quota" >"/sys/fs/cgroup/cpu/stranger/vllm-$i/cpu.cfs_quota_us"
  fi
done

cat >nginx.conf <<EOF
daemon off;
pid $dir/nginx.pid;
events {}
http {
  access_log $dir/access.log;
  client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u;
  scgi_temp_path $dir/s;
  upstream engines {
    least_conn;
$(for i in $replicas; do echo "    server 10.88.0.1$i:8000 max_fails=3 fail_timeout=10s;"; done)
  }
  server {
    listen 10.88.0.1:8080;
    proxy_buffering off;
    proxy_connect_timeout 2s;
    proxy_read_timeout 60s;
    location / { proxy_pass http://engines; }
    location = /nginx_status { stub_status; }
  }
}
EOF
within nginx nginx -e "$dir/nginx-error.log" -c "$dir/nginx.conf"
prometheus-nginx-exporter -nginx.scrape-uri=http://10.88.0.1:8080/nginx_status -nginx.retries=100 \
  -web.listen-address=10.88.0.1:9113 >nginx-exporter.log 2>&1 &

targets() { for i in $replicas; do printf "'10.88.0.1%s:%s', " "$i" "$1"; done; }
cat >prometheus.yml <<EOF
global: {scrape_interval: 2s, scrape_timeout: 2s}
scrape_configs:
- {job_name: vllm, static_configs: [{targets: [$(targets 8000)]}]}
- {job_name: node, static_configs: [{targets: [$(targets 9100)]}]}
- {job_name: nginx, static_configs: [{targets: ['10.88.0.1:9113']}]}
EOF
within prometheus prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/prometheus" \
  --web.listen-address=10.88.0.1:9090 --log.level=warn

for i in $replicas; do
  until curl -sf -o /dev/null "http://10.88.0.1$i:8000/health"; do sleep 1; done
done
echo "serves at http://10.88.0.1:8080, Prometheus at http://10.88.0.1:9090"
while :; do sleep 1; done
