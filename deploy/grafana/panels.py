"""What the dashboard shows, row by row; make_dashboard.py turns it into Grafana's JSON.

Queries are short here: [R] stands for Grafana's rate interval, and every metric of ours gets the
dashboard's variables as filters. A query is (legend, PromQL). Where a series begins with the first event
(errors, refusals), the query says 0 until then.
"""
import re


def graph(title, description, unit, *queries, **looks):
    """A time series. looks: stack ('normal', 'percent'), limit (a line to stay below), top (of the axis)."""
    return {"type": "timeseries", "title": title, "description": description, "unit": unit, "queries": queries,
            **looks}


def stat(title, description, unit, steps, *queries):
    """One number. steps: (from, color) in rising order, the first from None."""
    return {"type": "stat", "title": title, "description": description, "unit": unit, "steps": steps,
            "queries": queries}


def quantile(q, histogram, *by):
    return f"histogram_quantile({q}, sum by ({', '.join([*by, 'le'])}) (rate({histogram}_bucket[R])))"


def quantiles(histogram, *by):
    """p50, p95 and p99; `by`: labels that each has a line of its own for."""
    suffix = "".join(f" {{{{{label}}}}}" for label in by)
    return [(f"p{round(100 * q)}{suffix}", quantile(q, histogram, *by)) for q in (0.5, 0.95, 0.99)]


def rates(metric, *by, zero=None):
    """Events a second, a line for each value of the labels; zero: the label that says 'none' before the first."""
    rate = f"sum by ({', '.join(by)}) (rate({metric}[R]))"
    if zero:
        rate += f' or label_replace(vector(0), "{zero}", "none", "", "")'
    return " ".join(f"{{{{{label}}}}}" for label in by), rate


def hit_rate(unit):
    """By tier, of what was looked for in all."""
    found = f"sum by (tier) (rate(tessera_worker_hit_{unit}_total[R]))"
    return "{{tier}}", f"{found} / on () group_left () sum(rate(tessera_worker_lookup_{unit}_total[R]))"


def per_process(query):
    """Only of our own programs: others show process_ metrics too."""
    return re.sub(r"(process_\w+)", r'\1{job=~"tessera-.*"}', query)


# Without traffic a ratio is 'no data' instead of NaN, and nothing fails.
KV_TOKENS = "(sum(rate(tessera_prompt_kv_tokens_total[R])) > 0)"
OF_PROMPT = "sum(rate(tessera_prompt_kv_tokens_total{{source=\"{}\"}}[R])) / " + KV_TOKENS
HIT_RATIO = "1 - " + OF_PROMPT.format("computed")
ERRORS = ('(sum(rate(tessera_http_requests_total{code=~"500|504"}[R])) or vector(0))'
          " / (sum(rate(tessera_http_requests_total[R])) > 0) or vector(0)")
REJECTS = ('(sum(rate(tessera_http_requests_total{code=~"429|503",route!="/health"}[R])) or vector(0))'
           ' / (sum(rate(tessera_http_requests_total{route!="/health"}[R])) > 0) or vector(0)')
READY = "sum(max by (worker) (tessera_worker_ready))"
FIRST_TOKEN = "tessera_time_to_first_token_seconds"
COST = 'sum by (kind) (rate(tessera_worker_cost_seconds_total{{of="{}"}}[R]))'
LESS_IS_GOOD = ((None, "green"), (0.01, "orange"), (0.05, "red"))

OVERVIEW = [
    stat("Workers ready", "Workers that answer, of those that the gateways know. None: every request is answered"
         " with 503.", "none", ((None, "red"), (1, "green")),
         ("ready", READY), ("known", "count(count by (worker) (tessera_worker_ready))")),
    stat("Alerts firing", "Of deploy/prometheus/alerts.rules.yml; what to do is in deploy/README.md under the"
         " alert's name.", "none", ((None, "green"), (1, "red")),
         ("firing", 'count(ALERTS{alertname=~"Tessera.*",alertstate="firing"}) or vector(0)')),
    stat("Failed", "Share of the requests answered with 500 or 504.", "percentunit", LESS_IS_GOOD,
         ("500, 504", ERRORS)),
    stat("Refused", "Share of the requests answered with 429 or 503: queues are full, a key is over its limit, or"
         " no worker is ready.", "percentunit", LESS_IS_GOOD, ("429, 503", REJECTS)),
    stat("First token, p95", "One request in 20 waits longer than this for its first token.", "s",
         ((None, "green"), (5, "orange"), (10, "red")), ("p95", quantile(0.95, FIRST_TOKEN) + " >= 0")),
    stat("Waiting", "Requests that wait in the workers' queues.", "none",
         ((None, "green"), (16, "orange"), (128, "red")), ("waiting", "sum(tessera_worker_requests_waiting)")),
    stat("Tokens from caches", "Share of the prompt tokens whose KV was found in a cache, recomputed ones included:"
         " the hit rate.", "percentunit", ((None, "orange"), (0.1, "yellow"), (0.3, "green")),
         ("hit rate", HIT_RATIO)),
    stat("Bytes from caches", "Share of the KV bytes that workers looked for and found, in their own memory or in the"
         " cache server.", "percentunit", ((None, "orange"), (0.1, "yellow"), (0.3, "green")),
         ("hit rate", "sum(rate(tessera_worker_hit_bytes_total[R]))"
          " / (sum(rate(tessera_worker_lookup_bytes_total[R])) > 0)")),
    graph("Time to the first token", "From a request's arrival at the gateway.", "s", *quantiles(FIRST_TOKEN)),
    graph("Where the prompts' KV comes from", "exact: the same prefix, unchanged. blended: a known passage at another"
          " place. recomputed: known, and computed again with the whole prompt in view. computed: unknown.",
          "short", rates("tessera_prompt_kv_tokens_total", "source"), stack="percent"),
    graph("Which alerts fire", "By name, for which deploy/README.md has a section each.", "none",
          ("{{alertname}}", 'count by (alertname) (ALERTS{alertname=~"Tessera.*",alertstate="firing"})'
           ' or label_replace(vector(0), "alertname", "none", "", "")'), stack="normal"),
]

LATENCY = [
    *[graph(f"Time to the first token by reuse, p{round(100 * q)}", "By the percentage of the prompt's tokens that came"
            " from a cache and were not recomputed. The line of 0 is what every request would take without a cache.",
            "s", ("{{reuse}} %", quantile(q, "tessera_gateway_time_to_first_token_seconds", "reuse")))
      for q in (0.5, 0.95, 0.99)],
    graph("Prefill by kind, p50", "From a request's start in the worker to its first token. blend: cached passages"
          " were used. exact: only a common prefix. off: a full prefill.", "s",
          ("{{kind}}", quantile(0.5, "tessera_worker_prefill_seconds", "kind"))),
    graph("Prefill by kind, p95", "The same for the slowest in 20.", "s",
          ("{{kind}}", quantile(0.95, "tessera_worker_prefill_seconds", "kind"))),
    graph("Wait in the worker's queue", "From a request's arrival at the worker to its start.", "s",
          *quantiles("tessera_worker_queue_seconds")),
    graph("Between two tokens", "Inter-token latency, as clients see it.", "s",
          *quantiles("tessera_inter_token_latency_seconds")),
    graph("Whole requests", "From arrival to the last token.", "s", *quantiles("tessera_e2e_request_latency_seconds")),
    graph("Prompt and answer lengths, p50", "Longer prompts take longer, cached or not.", "short",
          ("prompt tokens", quantile(0.5, "tessera_request_prompt_tokens")),
          ("answer tokens", quantile(0.5, "tessera_request_generation_tokens"))),
]

THROUGHPUT = [
    graph("Answers", "By how they ended: stop (an end token or stop string), length, abort (the client left).",
          "reqps", rates("tessera_request_success_total", "finished_reason"), stack="normal"),
    graph("Tokens", "Tokens of prompts and of answers, a second.", "short",
          ("prompt", "sum(rate(tessera_prompt_tokens_total[R]))"),
          ("generated", "sum(rate(tessera_generation_tokens_total[R]))")),
    graph("At the gateways", "Requests that are at a worker or being prepared, and that wait to be tokenized.", "none",
          ("running", "sum(tessera_num_requests_running)"), ("waiting", "sum(tessera_num_requests_waiting)"),
          ("connections", "sum(tessera_http_connections)")),
    graph("At each worker", "Requests that the gateways have sent to a worker and that are not over.", "none",
          ("{{worker}}", "sum by (worker) (tessera_worker_in_flight)")),
    graph("How workers are chosen", "affinity: the worker has most of the request's chunks in memory. hash: it should"
          " get them. load: those were too busy.", "reqps", rates("tessera_routed_total", "by"), stack="normal"),
    graph("Passages computed ahead", "POST /v1/chunks: passages that were stored, and that failed.", "ops",
          ("stored", "sum(rate(tessera_chunks_stored_total[R]))"),
          ("failed", "sum(rate(tessera_chunks_failed_total[R]))")),
]

REUSE = [
    graph("Hit rate by tokens and tier", "Share of the prompt tokens that were looked for and found. worker: in its own"
          " memory. ram, rocksdb: in the cache server's tiers.", "percentunit", hit_rate("tokens"), stack="normal",
          top=1),
    graph("Hit rate by bytes and tier", "The same by the bytes of their KV.", "percentunit", hit_rate("bytes"),
          stack="normal", top=1),
    graph("Recomputed and saved", "Shares of the prompt tokens. recomputed: found and computed again, what fidelity"
          " costs. saved: nothing was computed for them.", "percentunit",
          ("recomputed", OF_PROMPT.format("recomputed")),
          ("saved", 'sum(rate(tessera_prompt_kv_tokens_total{source=~"exact|blended"}[R])) / ' + KV_TOKENS)),
    graph("Drift", "KL of the first token between a blend and a full prefill, mean over the sampled requests"
          " (--drift_sample). 0.3 is where TesseraDriftHigh begins.", "short",
          ("{{instance}}", "sum by (instance) (rate(tessera_worker_drift_kl_sum[R]))"
           " / sum by (instance) (rate(tessera_worker_drift_kl_count[R]))"), limit=0.3),
    graph("What the cost model chose", "For requests of mode auto: the one of blend and full prefill that it predicts"
          " to be faster.", "reqps", rates("tessera_worker_cost_decisions_total", "choice"), stack="normal"),
    graph("Cost model: actual over predicted", "Seconds by kind of prefill; 1 is right. The choice of blend or full"
          " rests on it.", "short",
          ("{{kind}}", COST.format("actual") + " / (" + COST.format("predicted") + " > 0)"), limit=2),
    graph("Pulled or recomputed", "Tokens that the cache server had, by what the cost model thought to be faster.",
          "short", rates("tessera_worker_pull_decision_tokens_total", "choice"), stack="normal"),
    graph("Segments by where they were found", "By the tier of their first token; none: in no cache.", "ops",
          rates("tessera_worker_segments_total", "tier"), stack="percent"),
    graph("Same tokens as a full prefill", "Of the sampled requests, the share of greedy tokens that agree.",
          "percentunit", ("same", 'sum(rate(tessera_worker_drift_tokens_total{agreement="same"}[R]))'
                          " / sum(rate(tessera_worker_drift_tokens_total[R]))"), top=1),
]

CACHE = [
    graph("Fill", "Bytes in use of each tier's limit.", "percentunit",
          ("{{instance}} {{tier}}", "tessera_cache_tier_used_bytes / tessera_cache_tier_capacity_bytes"), top=1),
    graph("Bytes in use", "Entries, unfinished writes, and what is still read.", "bytes",
          ("{{tier}}", "sum by (tier) (tessera_cache_tier_used_bytes)"), stack="normal"),
    graph("Evictions", "By tier and reason. room: for something else. neighbours: for a larger piece. tenant_quota,"
          " damaged and erased say themselves.", "ops",
          rates("tessera_cache_tier_evictions_total", "tier", "reason"), stack="normal"),
    graph("Pieces that workers ask for", "By the fastest tier that had them; none: a miss.", "ops",
          rates("tessera_cache_lookup_pieces_total", "tier"), stack="percent"),
    graph("Hits of each tier", "Its own reads that found their piece. A tier is read for what those above it lack.",
          "ops", rates("tessera_cache_tier_hits_total", "tier")),
    graph("Latency of a tier, p95", "How long its calls take.", "s",
          ("{{tier}} {{call}}", quantile(0.95, "tessera_cache_tier_seconds", "tier", "call"))),
    graph("Bytes to and from workers", "shm: shared memory, grpc: the network.", "Bps",
          ("out {{transport}}", "sum by (transport) (rate(tessera_cache_sent_bytes_total[R]))"),
          ("in {{transport}}", "sum by (transport) (rate(tessera_cache_received_bytes_total[R]))")),
    graph("Disk: loads and writes", "Pieces read from disk and written there; dropped: the write queue was full.",
          "ops", ("loaded", "sum(rate(tessera_cache_loads_total[R]))"),
          ("written", "sum(rate(tessera_cache_written_pieces_total[R]))"),
          ("dropped", "sum(rate(tessera_cache_dropped_writes_total[R]))"),
          ("failed loads", "sum(rate(tessera_cache_failed_loads_total[R]))")),
    graph("Disk: queues", "Pieces that wait to be read and to be written.", "none",
          ("to load", "sum(tessera_cache_load_queue)"), ("to write", "sum(tessera_cache_write_queue_pieces)")),
    graph("Leases", "Readers that hold pieces now, and stores under way.", "none",
          ("{{transport}}", "sum by (transport) (tessera_cache_leases)"), ("stores", "sum(tessera_cache_open_stores)")),
    graph("Leases cut off", "Readers that took longer than their lease.", "ops",
          rates("tessera_cache_expired_leases_total", "transport")),
    graph("Checksum failures", "Pieces and slices that arrived damaged, within the rate interval. Each one is thrown"
          " away and computed; there should be none.", "none",
          ("stored", "sum(increase(tessera_cache_checksum_failures_total[R]))"),
          ("fetched", "sum(increase(tessera_worker_checksum_failures_total[R]))"),
          ("reported by readers", "sum(increase(tessera_cache_reported_damaged_total[R]))"),
          ("on disk", 'sum(increase(tessera_cache_tier_evictions_total{reason="damaged"}[R]))')),
    graph("Pinned", "Bytes that no eviction takes.", "bytes",
          ("{{instance}}", "sum by (instance) (tessera_cache_pinned_bytes)")),
]

WORKERS = [
    graph("Queue", "Requests that wait to be started, as a share of the most that may (--queue); full, they are"
          " refused.", "percentunit",
          ("{{instance}}", "tessera_worker_requests_waiting / tessera_worker_requests_waiting_limit"), limit=0.8,
          top=1),
    graph("Waiting at each worker", "The same in requests.", "none",
          ("{{instance}}", "sum by (instance) (tessera_worker_requests_waiting)")),
    graph("Running", "Requests that are prefilled or decoded.", "none",
          ("{{instance}}", "sum by (instance) (tessera_worker_requests_running)")),
    graph("KV memory in use", "Share of the positions; full while requests wait is TesseraKvMemoryFull.",
          "percentunit", ("{{instance}}", "tessera_worker_kv_usage_ratio"), limit=0.95,
          top=1),
    graph("Chunks in the workers' memory", "Share of its limit that is in use; what is there is not fetched again."
          " What running requests read comes on top.", "percentunit",
          ("{{instance}}", "tessera_worker_chunk_pool_bytes / tessera_worker_chunk_pool_limit_bytes")),
    graph("Chunks asked for", "resident: in the worker's memory. joined: another request was fetching it. missing:"
          " fetched, or computed.", "ops", rates("tessera_worker_wanted_chunks_total", "found"), stack="percent"),
    graph("Evictions and preemptions", "Chunks that left the worker's memory; requests that gave their KV memory up"
          " to another and are computed again.", "ops",
          ("chunks evicted", "sum(rate(tessera_worker_chunk_pool_evictions_total[R]))"),
          ("preemptions", "sum(rate(tessera_worker_preemptions_total[R]))")),
    graph("Calls to the cache server, p95", "lookup: which pieces are there. fetch: until the last layer is here.", "s",
          ("lookup", quantile(0.95, "tessera_worker_cache_lookup_seconds")),
          ("fetch", quantile(0.95, "tessera_worker_cache_fetch_seconds"))),
    graph("Bytes to and from the cache server", "As the workers count them.", "Bps",
          ("fetched {{transport}}", "sum by (transport) (rate(tessera_worker_fetched_bytes_total[R]))"),
          ("stored {{transport}}", "sum by (transport) (rate(tessera_worker_stored_bytes_total[R]))")),
    graph("What goes wrong with the cache", "Each one is computed instead: answers are right, and slower.", "ops",
          *[(name.replace("_", " "), f"sum(rate(tessera_worker_{name}_total[R]))")
            for name in ("failed_fetches", "failed_stores", "skipped_cache_calls", "lost_leases", "shm_fallbacks",
                         "dropped_chunks")]),
]

ERROR_ROW = [
    graph("Responses that are no success", "By status. 429: too many; 500, 504: failed; 503: no worker; other 4xx:"
          " wrong requests.", "reqps",
          rates('tessera_http_requests_total{code!~"2.."}', "code", zero="code"), stack="normal"),
    graph("Requests by how they ended", "invalid: wrong requests. rejected: a queue is full. unavailable: no worker."
          " timeout: request_timeout. cancelled: the client left.", "reqps",
          rates("tessera_gateway_request_seconds_count", "outcome"), stack="normal"),
    graph("Requests that a worker did not finish", "By gRPC status. cancelled: the client left.", "reqps",
          rates('tessera_worker_requests_total{outcome!="ok"}', "outcome", zero="outcome"), stack="normal"),
    graph("Refused for a key's limit", "By the name of the API key.", "reqps",
          rates("tessera_rate_limited_total", "key", zero="key"), stack="normal"),
    graph("Workers lost and requests sent again", "A request is sent again only when nothing was answered yet.", "ops",
          ("workers lost", "sum(rate(tessera_workers_lost_total[R]))"),
          ("sent again", "sum(rate(tessera_routing_retries_total[R]))")),
    graph("Refused by cache servers", "Fetches, stores and loads past a limit; what has no room; failures of a tier.",
          "ops", *[(name.replace("_", " "), f"sum(rate(tessera_cache_{name}_total[R]))")
                   for name in ("refused_fetches", "refused_stores", "refused_loads", "rejected_pieces",
                                "tier_errors")]),
]

PROCESSES = [
    graph("CPU", "Cores in use.", "short", ("{{job}} {{instance}}", per_process("rate(process_cpu_seconds_total[R])"))),
    graph("Memory", "Resident; the cache server's memory tier is in it, once it is used.", "bytes",
          ("{{job}} {{instance}}", per_process("process_resident_memory_bytes"))),
    graph("File descriptors", "Share of the limit; a gateway needs one for each connection.", "percentunit",
          ("{{job}} {{instance}}", per_process("process_open_fds / process_max_fds")), limit=0.8, top=1),
    graph("Threads", "Rising without end is a fault of ours.", "none",
          ("{{job}} {{instance}}", per_process("process_threads"))),
    graph("Up since", "Time since each program's start; back at 0 where one was started again.", "s",
          ("{{job}} {{instance}}", per_process("time() - process_start_time_seconds"))),
    graph("Versions", "How many programs run which version.", "none",
          ("{{program}} {{version}}", "count by (program, version) (tessera_build_info)"), stack="normal"),
]

ROWS = [
    ("Is it healthy, and is the cache paying off?", OVERVIEW),
    ("Latency", LATENCY),
    ("Throughput", THROUGHPUT),
    ("Reuse", REUSE),
    ("Cache servers", CACHE),
    ("Workers", WORKERS),
    ("Errors and refusals", ERROR_ROW),
    ("Processes", PROCESSES),
]
