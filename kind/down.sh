#!/usr/bin/env bash
# Delete the cluster of kind/up.sh with everything on it.
set -euo pipefail
kind delete cluster --name rcarena
