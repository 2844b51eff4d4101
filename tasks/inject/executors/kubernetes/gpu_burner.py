"""The program of a contention pod. Its text is sent to a pod of the serving image: it may use torch, nothing of ours.

On every GPU that the pod sees it multiplies matrices for a share of the time and holds memory, and ends by itself.
"""

import argparse
import pathlib
import sys
import time

PERIOD_S = 0.1
BURST = 4


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--duty", type=float, default=0.0, help="share of the time that is spent computing")
    parser.add_argument("--hold-mib", type=int, default=0)
    parser.add_argument("--size", type=int, default=8192, help="rows of the square matrices")
    parser.add_argument("--ready-file", required=True)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds

    import torch

    if options.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("no GPU in this pod: is runtime class or default runtime nvidia?")
        devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        wait = torch.cuda.synchronize
    else:
        devices, wait = [torch.device(options.device)], lambda device: None
    held = [torch.empty(options.hold_mib << 20, dtype=torch.uint8, device=device).fill_(1) for device in devices]
    kind = torch.bfloat16
    size = options.size if options.duty else 1
    matrices = [[torch.ones(size, size, dtype=kind, device=device) for _ in range(3)] for device in devices]
    for device in devices:
        wait(device)
    pathlib.Path(options.ready_file).touch()
    while time.monotonic() < end:
        began = time.monotonic()
        while options.duty and time.monotonic() - began < options.duty * PERIOD_S:
            for left, right, product in matrices:
                for _ in range(BURST):
                    torch.matmul(left, right, out=product)
            for device in devices:
                wait(device)
        spent = time.monotonic() - began
        time.sleep(max(PERIOD_S - spent, spent / options.duty - spent) if options.duty else PERIOD_S)
    del held
    return 0


if __name__ == "__main__":
    sys.exit(main())
