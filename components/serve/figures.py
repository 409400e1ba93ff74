"""Counters of a server in Prometheus' text format. They are touched by the event loop only, so that none is locked."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

from components.serve.model import ServedModel

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Figures:
    """What was asked of this process since it started."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.texts = self.tokens = self.waiting = 0
        self._buckets = [0] * (len(BUCKETS_SECONDS) + 1)
        self._seconds = 0.0

    def answered(self, texts: int, tokens: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests[200] += 1
        self.texts += texts
        self.tokens += tokens
        self._seconds += seconds
        self._buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1

    def text(self, model: ServedModel | None) -> str:
        """The exposition, with the model that is loaded, if one is."""
        lines = _head("requests_total", "counter", "Requests for embeddings by HTTP status.")
        lines += [
            f'embedmill_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.requests.items())
        ]
        lines += [*_head("texts_total", "counter", "Texts embedded."), f"embedmill_texts_total {self.texts}"]
        lines += [*_head("tokens_total", "counter", "Tokens read."), f"embedmill_tokens_total {self.tokens}"]
        lines += _head("requests_waiting", "gauge", "Requests under way.")
        lines += [f"embedmill_requests_waiting {self.waiting}"]
        lines += _head("request_seconds", "histogram", "Time from the request's head to its answer.")
        limits = [*map(str, BUCKETS_SECONDS), "+Inf"]
        counts = list(accumulate(self._buckets))
        lines += [
            f'embedmill_request_seconds_bucket{{le="{limit}"}} {count}'
            for limit, count in zip(limits, counts, strict=True)
        ]
        lines += [f"embedmill_request_seconds_sum {self._seconds:.6f}", f"embedmill_request_seconds_count {counts[-1]}"]
        lines += _head("model_info", "gauge", "The model that is served.")
        if model is not None:
            lines += [f'embedmill_model_info{{name="{_escape(model.name)}",version="{model.version}"}} 1']
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP embedmill_{name} {meaning}", f"# TYPE embedmill_{name} {kind}"]


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
