"""The program of a pod that fills an engine's KV cache. Its text is sent to a pod of the serving image: it may use the
standard library, nothing of ours.

It keeps a number of long conversations under way: random words, so that no prefix is shared. It ends by itself.
"""

import argparse
import json
import pathlib
import random
import sys
import threading
import time
import typing
import urllib.error
import urllib.request

VOCABULARY = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water "
    "room mother area money story fact month lot right study book eye job word business issue side kind head "
    "house service friend father power hour game line end member law car city community name team minute idea "
    "body information back parent"
)
REQUEST_TIMEOUT_S = 300


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True, help="of the server, without /v1")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--prompt-words", type=int, required=True)
    parser.add_argument("--output-tokens", type=int, required=True)
    parser.add_argument("--ready-file", required=True)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    model = _ask(f"{options.url}/v1/models")["data"][0]["id"]
    failures: list[str] = []
    for number in range(options.concurrency):
        threading.Thread(target=_talk, args=(options, model, end, number, failures), daemon=True).start()
    while time.monotonic() < end:
        if failures:
            sys.exit(failures[0])
        time.sleep(0.2)
    return 0


def _talk(options: argparse.Namespace, model: str, end: float, seed: int, failures: list[str]) -> None:
    dice, words = random.Random(f"{seed} {time.time_ns()}"), VOCABULARY.split()
    while time.monotonic() < end:
        body = {
            "model": model,
            "prompt": " ".join(dice.choices(words, k=options.prompt_words)),
            "max_tokens": options.output_tokens,
            "ignore_eos": True,
            "stream": True,
        }
        try:
            _read_all(f"{options.url}/v1/completions", body, end, pathlib.Path(options.ready_file))
        except urllib.error.HTTPError as error:
            if error.code in (400, 404, 422):  # asking again does not help
                failures.append(f"HTTP {error.code}: {error.read(400).decode(errors='replace')}")
                return
            time.sleep(1)
        except OSError:  # refused, timed out, cut off: the engine may be under more than this
            time.sleep(1)


def _read_all(url: str, body: dict[str, typing.Any], end: float, ready: pathlib.Path) -> None:
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method="POST")  # noqa: S310 (the URL is ours)
    with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310 (the stack)
        for _ in answer:
            ready.touch()
            if time.monotonic() > end:
                return


def _ask(url: str) -> dict[str, typing.Any]:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 (the stack)
        document: dict[str, typing.Any] = json.load(answer)
        return document


if __name__ == "__main__":
    sys.exit(main())
