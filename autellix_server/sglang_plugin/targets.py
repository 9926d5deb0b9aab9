"""Every function of SGLang 0.5.23 that the plugin hooks or relies on, as the guard checks it."""

from __future__ import annotations

from autellix_server.sglang_plugin.guard import Target
from autellix_server.sglang_plugin.platform import on_cpu

_MANAGERS = "sglang.srt.managers"
_SCHEDULER = f"{_MANAGERS}.scheduler.Scheduler"
_BATCH = f"{_MANAGERS}.schedule_batch"
_POLICY = f"{_MANAGERS}.schedule_policy"
_RESULTS = f"{_MANAGERS}.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor"
_RECEIVER = f"{_MANAGERS}.scheduler_components.request_receiver.SchedulerRequestReceiver"
_PENALTIES = "sglang.srt.sampling.penaltylib"
_TOKENIZER = f"{_MANAGERS}.tokenizer_manager.TokenizerManager"
_ENGINE = "sglang.srt.entrypoints.engine.Engine"
_MEMORY = "sglang.srt.mem_cache"
_TREE = f"{_MEMORY}.unified_radix_cache.UnifiedRadixCache"
_HOST_CONTROLLER = f"{_MEMORY}.hybrid_cache.hybrid_cache_controller.HybridCacheController"
_HOST_POOL = f"{_MEMORY}.pool_host.mha.MHATokenToKVPoolHost"

CREATE_REQUEST = Target(f"{_SCHEDULER}._create_generation_req", ("self", "recv_req", "args", "kwargs"))
PROCESS_RESULT = Target(f"{_SCHEDULER}.process_batch_result", ("self", "batch", "result"), "726305f46a979a47")
STREAMER_CLASS = Target(f"{_SCHEDULER}.get_output_streamer_class", ("self",))
INIT_INFO = Target(f"{_SCHEDULER}.get_init_info", ("self",))
ON_IDLE = Target(f"{_SCHEDULER}.on_idle", ("self",))
INTERNAL_STATE = Target(f"{_SCHEDULER}.get_internal_state", ("self", "recv_req"))
ACCOUNT_TARGETS = (CREATE_REQUEST, PROCESS_RESULT, ON_IDLE, STREAMER_CLASS, INIT_INFO, INTERNAL_STATE)
"""Hooked in every scheduler process."""

METRICS_SWITCH = Target(
    f"{_MANAGERS}.scheduler_components.metrics_reporter.SchedulerMetricsReporter.__post_init__",
    ("self",),
    "98fc4039bd454e90",
)
"""Says whether this scheduler process keeps metrics."""

CALC_PRIORITY = Target(
    f"{_POLICY}.SchedulePolicy.calc_priority", ("self", "waiting_queue", "running_batch", "processed_tokens")
)
NEW_PREFILL = Target(f"{_SCHEDULER}.get_new_batch_prefill", ("self", "running_batch"), "a8b9a7a4fee3e50e")
RETRACTION_ORDER = Target(f"{_BATCH}.ScheduleBatch._get_decode_retraction_order", ("reqs",))
RELEASE_REQ = Target(
    f"{_BATCH}.ScheduleBatch.release_req", ("self", "idx", "remaing_req_count", "offload_kv"), "f429e105afb79b8e"
)
CHECK_DECODE = Target(f"{_BATCH}.ScheduleBatch.check_decode_mem", ("self", "selected_indices"))
TREE_RESET = Target(f"{_TREE}.reset", ("self",))
COUNT_OUTPUT = Target(f"{_BATCH}.ScheduleBatch.cumulate_penalty_output_tokens", ("self",), "dce2467c859a7049")
PREPARE_PREFILL = Target(f"{_BATCH}.ScheduleBatch.prepare_for_extend", ("self",), "e7ca2d0e335a570e")
BROADCAST = Target(
    f"{_RECEIVER}._broadcast_reqs_across_ranks",
    ("self", "recv_reqs", "local_reqs"),
    "f569f2021b707ed5",
)
INIT_HICACHE = Target(f"{_TREE}.init_hicache", ("self", "server_args", "params"))
DROP_SUBTREE = Target(f"{_TREE}._drop_subtree_no_host", ("self", "node_id", "tracker"), "4edc74200eab1a67")
HOST_WRITE = Target(
    f"{_HOST_CONTROLLER}.write",
    ("self", "device_indices", "priority", "node_id", "extra_pools", "flush", "start_owner"),
    "17b118c37cfafb45",
)
HOST_LOAD = Target(
    f"{_HOST_CONTROLLER}.load",
    ("self", "host_indices", "priority", "node_id", "extra_pools", "device_indices", "anchor_indices"),
    "feec2adf0c8317d3",
)
PLANNER_TARGETS = (
    CALC_PRIORITY,
    NEW_PREFILL,
    RETRACTION_ORDER,
    RELEASE_REQ,
    CHECK_DECODE,
    COUNT_OUTPUT,
    PREPARE_PREFILL,
    BROADCAST,
    TREE_RESET,
    INIT_HICACHE,
    DROP_SUBTREE,
    HOST_WRITE,
    HOST_LOAD,
)
"""Hooked as well where the planner decides who runs."""

HOST_POOL_CLASS = Target(f"{_MEMORY}.pool_host.mha.get_mha_host_pool_cls", ("buffer_info",), "93913cd86981e6f1")
"""Hooked as well where the planner decides who runs, or the device is a CPU."""

_COPY_PARAMETERS = ("self", "device_pool", "host_indices", "device_indices")
HOST_POOL_RELIED_ON = (
    Target(f"{_HOST_POOL}.init_kv_buffer", ("self",), "a56d0a2f847b251c"),
    Target(f"{_HOST_POOL}.backup_from_device_all_layer", (*_COPY_PARAMETERS, "io_backend"), "10804e436ba3520d"),
    Target(
        f"{_HOST_POOL}.load_to_device_per_layer",
        (*_COPY_PARAMETERS, "layer_id", "io_backend", "is_draft"),
        "1206daa053dca863",
    ),
    Target(f"{_MEMORY}.pool_host.base.HostKVCache.alloc", ("self", "need_size"), "39f2e5fd15250b98"),
    Target(f"{_MEMORY}.pool_host.base.HostKVCache.clear", ("self",), "2f7247607c829b01"),
    Target(f"{_MEMORY}.pool_host.base.host_memory_budget_scope", ("budget_bytes",)),
    Target(f"{_MEMORY}.pool_host.base.ranks_per_host", ()),
    Target(f"{_MEMORY}.host_memory.available_host_memory_bytes", ("allow_cgroup_fallback",)),
)
"""What the host pool overrides or calls."""

CPU_RELIED_ON = (
    Target(f"{_MEMORY}.memory_pool.MHATokenToKVPool._create_buffers_normal", ("self",), "979426bbd40e8a88"),
    Target(f"{_MEMORY}.memory_pool.MHATokenToKVPool._kv_buffer_shapes", ("self",), "709abf44bdb42558"),
    Target(f"{_MEMORY}.allocator.base.BaseTokenToKVPoolAllocator.get_kvcache", ("self",)),
)
"""What the KV pool for a CPU overrides or calls."""

# Each with the digests of how it starts and how it counts.
_PENALIZERS = (
    ("Frequency", "b32d6fe0e7061082", "183002237e80c0ba"),
    ("Presence", "61d94d93a553b4c4", "1393d164cbc474e6"),
    ("Repetition", "a042ddca6c2f3d66", "88b317559b43af91"),
    ("MinNewTokens", "ddda7380804b17de", "1550699d4d76e090"),
)
RELIED_ON = (
    Target(f"{_SCHEDULER}.event_loop_normal", ("self",), "c328a45b821f18a0"),
    Target(f"{_SCHEDULER}.event_loop_overlap", ("self",), "c093eb14e50c1ac6"),
    Target(f"{_SCHEDULER}.ingest_requests", ("self", "stop_at_pause"), "77f9e386bae1ee18"),
    Target(f"{_RECEIVER}.recv_requests", ("self", "local_reqs"), "2b9c24e4a31976b0"),
    Target(f"{_RESULTS}.process_batch_result_prefill", ("self", "batch", "result"), "a43539bf03ee4abf"),
    Target(f"{_RESULTS}.process_batch_result_decode", ("self", "batch", "result"), "c4c08ab3f8690085"),
    Target(
        f"{_SCHEDULER}._get_new_batch_prefill_raw",
        ("self", "prefill_delayer_single_pass", "running_batch"),
        "09e8cf03a4d0c1bb",
    ),
    Target(f"{_SCHEDULER}.get_next_batch_to_run", ("self", "running_batch", "last_batch"), "34f30fd4dfb13d74"),
    Target(f"{_SCHEDULER}._should_defer_prefill", ("self", "running_batch"), "fbdbb2ae5a7e7086"),
    Target(f"{_SCHEDULER}._arm_prefill_decode_interval", ("self", "batch"), "54db911b31a3cfcb"),
    Target(f"{_SCHEDULER}._add_request_to_queue", ("self", "req", "is_retracted"), "056a60799b02ac47"),
    Target(
        f"{_SCHEDULER}.get_num_allocatable_reqs",
        ("self", "running_bs", "beam_width", "running_batch", "num_held_rows"),
        "9ef9b9c5af8eca41",
    ),
    Target(f"{_SCHEDULER}.update_running_batch", ("self", "batch"), "6962823239da9a89"),
    Target(f"{_BATCH}.ScheduleBatch.retract_decode", ("self",), "aa8b1c7e5e790ab7"),
    Target(f"{_BATCH}.ScheduleBatch.filter_batch", ("self", "reqs_to_exclude", "keep_indices"), "17e9b543d3c8c16e"),
    Target(
        f"{_BATCH}.release_req",
        (
            "req",
            "remaing_req_count",
            "req_to_token_pool",
            "token_to_kv_pool_allocator",
            "tree_cache",
            "hisparse_coordinator",
            "offload_kv",
        ),
        "e9a690b5c7084bb5",
    ),
    Target(f"{_BATCH}.Req.reset_for_retract", ("self",), "371e01019e07f2f4"),
    Target(f"{_MEMORY}.common.release_kv_cache", ("req", "tree_cache", "checkpoint"), "90e19434d1fa8c22"),
    Target(
        f"{_MEMORY}.common.match_kv_cache",
        ("req", "tree_cache", "token_ids", "cow_mamba", "max_prefix_len"),
        "1f3b0e2c895cf0ad",
    ),
    Target(f"{_TREE}.lock", ("self", "node_id", "skip_lock_components"), "e3802e4c275190aa"),
    Target(f"{_TREE}.unlock", ("self", "lock"), "d991ce36e5f47b7f"),
    Target(
        f"{_POLICY}.PrefillAdder.add_one_req",
        ("self", "req", "has_chunked_req", "truncation_align_size"),
        "11ea292b16f33cb6",
    ),
    Target(f"{_POLICY}.PrefillAdder.add_chunked_req", ("self", "req"), "af3ae7db76b5e8d2"),
    Target(f"{_POLICY}.PrefillAdder._get_running_request_total_token_offset", ("self", "req"), "64fd33f1c3fee43b"),
    Target(f"{_BATCH}.ScheduleBatch.prepare_for_decode", ("self",), "1690ff7deee18f0f"),
    Target(
        "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo.from_schedule_batch",
        ("batch", "vocab_size"),
        "48352e06affec043",
    ),
    Target(
        f"{_PENALTIES}.BatchedPenalizerOrchestrator.cumulate_output_tokens", ("self", "output_ids"), "89117b50d93aa719"
    ),
    Target(f"{_PENALTIES}.BatchedPenalizerOrchestrator.filter", ("self", "keep_indices"), "4632bf1813e6f220"),
    Target(f"{_PENALTIES}.BatchedPenalizerOrchestrator.merge", ("self", "their"), "134a5b1c03fae630"),
    *(
        Target(f"{_PENALTIES}.Batched{name}Penalizer.{function}", parameters, digest)
        for name, prepare, count in _PENALIZERS
        for function, parameters, digest in (
            ("_prepare", ("self",), prepare),
            ("_cumulate_output_tokens", ("self", "output_ids"), count),
        )
    ),
    Target(f"{_BATCH}.Req.owned_kv_len", ("self",), "3f0c6f0fe9575672"),
    Target(f"{_BATCH}.Req.materialized_host_hit_len", ("self",), "4170dd07ffc2fbb2"),
    Target(f"{_TREE}.checkpoint_into_tree", ("self", "req", "up_to", "kwargs"), "3a20fa5c0617352c"),
    Target(f"{_TREE}._all_reduce", ("self", "data", "tp_reduce_op"), "d6fc2bad7453e737"),
    Target(f"{_TREE}.inc_host_lock_ref", ("self", "node_id"), "62b02d75ab05bd98"),
    Target(f"{_TREE}.dec_host_lock_ref", ("self", "node_id", "params"), "dd723e6acd4711b1"),
    Target(
        f"{_TREE}._evict_components",
        ("self", "request_by_type", "tracker", "available_size_targets", "allocation_reclaim_satisfied"),
        "aee6b4cbef23e768",
    ),
    Target(
        f"{_TREE}._load_back_transfers",
        ("self", "node_id", "mem_quota", "req", "result", "ancestor_lock_params", "host_anchor_params"),
        "6140c1c1ed30a139",
    ),
    Target(f"{_MANAGERS}.cache_controller.HiCacheController.start_writing", ("self",), "2278ab54c5b038de"),
)
"""What the planner's hooks call, mirror, or take for granted."""

GENERATE = Target(f"{_TOKENIZER}.generate_request", ("self", "obj", "request"))
WAIT_RESPONSE = Target(f"{_TOKENIZER}._wait_one_response", ("self", "obj", "request"))
RESOLVE_ARGS = Target("sglang.srt.server_args.ServerArgs.resolve_once", ("self",))
RUN_HTTP = Target(
    "sglang.srt.entrypoints.http_server._setup_and_run_http_server",
    (
        "server_args",
        "tokenizer_manager",
        "template_manager",
        "port_args",
        "scheduler_infos",
        "subprocess_watchdog",
        "execute_warmup_func",
        "launch_callback",
    ),
)
HTTP_TARGETS = (GENERATE, WAIT_RESPONSE, RESOLVE_ARGS, RUN_HTTP)
"""Hooked in every HTTP process."""

LAUNCH_DETOKENIZER = Target(
    f"{_ENGINE}._launch_detokenizer_subprocesses",
    ("server_args", "port_args", "run_detokenizer_process_func"),
    "317ec6f7eeac7e8d",
)
CPU_HTTP_TARGETS = (LAUNCH_DETOKENIZER,)
"""Hooked as well where the device is a CPU."""

_DETOKENIZER = f"{_MANAGERS}.detokenizer_manager"
CPU_HTTP_RELIED_ON = (
    Target(f"{_DETOKENIZER}.DetokenizerManager.init_running_status", ("self", "server_args"), "a78777562769adda"),
    Target(f"{_DETOKENIZER}.DetokenizerManager.event_loop", ("self",), "1635ec2205d8eeee"),
    Target(
        f"{_DETOKENIZER}.run_detokenizer_process",
        ("server_args", "port_args", "detokenizer_manager_class"),
        "725de1a311bbd81f",
    ),
    Target(
        f"{_ENGINE}._launch_subprocesses",
        (
            "server_args",
            "init_tokenizer_manager_func",
            "run_scheduler_process_func",
            "run_detokenizer_process_func",
            "port_args",
            "placement_group",
        ),
        "a0b3d867c98c574f",
    ),
)
"""What the detokenizer in the HTTP process overrides or stands in for."""


def scheduler_targets(*, planned: bool) -> tuple[Target, ...]:
    """Return what is hooked in a scheduler process; `planned`: the planner decides who runs."""
    host_pool = (HOST_POOL_CLASS,) if planned or on_cpu() else ()
    return (*ACCOUNT_TARGETS, *(PLANNER_TARGETS if planned else ()), *host_pool)


def http_targets() -> tuple[Target, ...]:
    """Return what is hooked in the HTTP process."""
    return (*HTTP_TARGETS, *(CPU_HTTP_TARGETS if on_cpu() else ()))


def http_relied_on() -> tuple[Target, ...]:
    """Return what the hooks of the HTTP process alone override or stand in for."""
    return CPU_HTTP_RELIED_ON if on_cpu() else ()


def relied_on(*, planned: bool) -> tuple[Target, ...]:
    """Return what the hooks of either process call, mirror, or take for granted; `planned`: as above."""
    host_pool = HOST_POOL_RELIED_ON if planned or on_cpu() else ()
    return (METRICS_SWITCH, *(RELIED_ON if planned else ()), *host_pool, *(CPU_RELIED_ON if on_cpu() else ()))
