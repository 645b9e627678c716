//! Every option with unit, default, bound and meaning: what `validator config` prints.
//!
//! A test holds this table against the structs: no option can be missing here, and no default can
//! differ.

use std::fmt::Write as _;

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct OptionRow {
    /// Its path in the file.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Its default; empty if it must be given.
    pub default: &'static str,
    /// What it may be.
    pub bound: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

macro_rules! rows {
    ($($name:literal $unit:literal $default:literal $bound:literal $meaning:literal;)*) => {
        &[$(OptionRow {
            name: $name, unit: $unit, default: $default, bound: $bound, meaning: $meaning,
        }),*]
    };
}

/// The options of `validator-<i>.toml`.
#[rustfmt::skip]
pub const OPTIONS: &[OptionRow] = rows![
    "genesis" "path" "" "an existing file" "the genesis; relative to the config";
    "epochs" "path" "epochs.toml" "may be missing" "later committees, equal everywhere; relative to the config; read again on SIGHUP";
    "key_file" "path" "" "mode 0600" "64 hex digits: the secret seed";
    "data_dir" "path" "" "made by generate or init" "store, execution state and consensus journal";
    "worker_threads" "threads" "2" "1 to 64" "threads that run tasks";
    "drain_timeout" "duration" "10s" "100ms to 2m" "how long a shutdown may take before it is cut off";
    "network.transport_listen" "address" "" "port 0: any" "links of the quorum store (UDP)";
    "network.ordering_listen" "address" "" "port 0: any" "the ordering engine (TCP)";
    "network.http_listen" "address" "" "port 0: any" "clients and operators (TCP); no access control: keep it on loopback or behind a proxy";
    "network.sync_listen" "address" "" "port 0: any" "other validators that want our state (TCP); optional: without it they ask at http_listen";
    "network.loopback" "yes/no" "false" "" "all validators are on this machine: larger datagrams";
    "network.link_wait" "duration" "5s" "0s to 1m" "how long to wait for links to a quorum before ordering starts anyway";
    "peers[].key" "hex" "" "a member of the committee" "public key of another validator";
    "peers[].transport" "address" "" "" "its links of the quorum store";
    "peers[].ordering" "address" "" "" "its ordering engine";
    "peers[].sync" "address" "" "" "its state, for other validators: its network.sync_listen, or else its http_listen";
    "proposal.block_interval" "duration" "50ms" "1ms to 10s" "least time between two blocks while much waits to be ordered";
    "proposal.block_interval_min" "duration" "10ms" "1ms to block_interval" "the same while little does (below 512 KiB)";
    "proposal.empty_block_interval" "duration" "500ms" "from block_interval to 200ms below ordering.leader_timeout" "an idle leader proposes an empty block after this long";
    "proposal.transactions_max" "transactions" "65536" "at least one full batch" "most transactions of a block";
    "proposal.batch_bytes_max" "size" "32MiB" "at least one full batch" "most bytes of batches that a block orders";
    "proposal.batches_max" "batches" "1024" "1 to 65536" "most batches of a block";
    "ordering.leader_timeout" "duration" "1s" "300ms to 1m" "how long a leader is waited for";
    "ordering.certification_timeout" "duration" "2s" "above leader_timeout" "how long a view may take";
    "ordering.timeout_retry" "duration" "1s" "10ms to 1m" "how often a vote to skip a view is repeated";
    "ordering.skip_timeout" "duration" "5s" "above the two before" "a leader that was silent for this long is not waited for";
    "execution.materialize_deadline" "duration" "5s" "100ms to 1m" "missing content is reported after this long, and waited for all the same";
    "execution.blocks_kept" "blocks" "100000" "1000 to 100000000" "summaries kept for GET /blocks";
    "http.connections_max" "connections" "256" "1 to 65536" "clients connected at once; more wait";
    "http.body_bytes_max" "size" "4MiB" "one transaction to 64MiB" "largest request body";
    "http.ingress_bytes_max" "size" "64MiB" "body_bytes_max to 2GiB" "request bodies held at once; more are answered 429";
    "http.body_timeout" "duration" "10s" "100ms to 10m" "how long a request body may take to arrive";
    "http.reads_max" "reads" "16" "1 to 1024" "reads of the store at once; more wait";
    "http.tracked_transactions_max" "transactions" "1500000" "1000 to 100000000" "clients' transactions that are followed; about 75 bytes of memory each";
    "http.outcomes_bytes_max" "size" "32MiB" "64KiB to 4GiB" "outcomes kept for streams that read late";
    "http.outcome_streams_max" "streams" "16" "1 to 1024" "streams of outcomes at once";
    "sequencer.window_bytes" "size" "1.0 GiB" "at least 4 full batches" "what is stored of each author";
    "sequencer.window_batches" "batches" "262144" "at least 16" "what is stored of each author";
    "sequencer.pool_bytes_max" "size" "32.0 MiB" "at least one full batch" "transactions accepted and not batched yet";
    "sequencer.pool_transactions_max" "transactions" "131072" "at least 1" "transactions accepted and not batched yet";
    "sequencer.batch_bytes_target" "size" "1.0 MiB" "at most one full batch" "a batch is sealed at this size";
    "sequencer.batch_age_max" "duration" "20ms" "1ms to 1s" "a batch is sealed when its oldest transaction has waited this long";
    "sequencer.batch_age_min" "duration" "5ms" "1ms to 1s" "and already then, while no own batch waits for its proof: up to two in each batch_age_max";
    "sequencer.gas_bucket_starts" "prices" "[0, 150, 300, 500, 1000, 3000, 5000, 10000, 100000, 1000000]" "rising, the first 0" "lowest gas unit price of each bucket";
    "sequencer.outstanding_bytes_max" "size" "64.0 MiB" "at least 4 x batch_bytes_target" "own batches not ordered yet, in memory";
    "sequencer.outstanding_batches_max" "batches" "4096" "at least 16" "own batches not ordered yet";
    "sequencer.reservation" "ids" "65536" "256 to 2^32" "own batch ids reserved on disk at once";
    "sequencer.resend_interval" "duration" "1s" "50ms to 10s" "a silent validator is asked again after this long, then twice that";
    "sequencer.group_bytes_max" "size" "8.0 MiB" "at least one full batch" "a group commit takes no more input beyond this";
    "sequencer.unasked_payloads_max" "payloads" "16" "2 to 1024" "payloads of one peer that nobody asked about";
    "sequencer.payload_patience" "duration" "150ms" "1ms to 5s" "a payload that is asked about is fetched after this long";
    "sequencer.fetch_try_timeout" "duration" "400ms" "10ms to 10s" "a fetch goes to the next holder after this long";
    "sequencer.fetches_max" "fetches" "4096" "at least 1" "fetches under way at once";
    "sequencer.fetch_bytes_in_flight_max" "size" "64.0 MiB" "at least one full batch" "content asked for and not answered, all peers together";
    "sequencer.fetch_asks_per_peer_max" "contents" "64" "1 to 1024" "contents, or chunks of large ones, one peer is asked for at once";
    "sequencer.recovered_bytes_max" "size" "1.0 GiB" "" "fetched content kept beyond its author's window";
    "sequencer.refetch_delay" "duration" "2s" "10ms to 1m" "a certified batch that has not arrived is fetched after this long";
    "sequencer.refetch_bytes_per_second" "size" "32.0 MiB" "at least 64KiB" "content nobody waits for yet is fetched at this rate at most";
    "sequencer.subscriber_window" "commits" "64" "1 to 65536" "commits delivered to a subscriber beyond what it acknowledged";
    "sequencer.subscriber_lag_bytes_max" "size" "4.0 GiB" "at least 1MiB" "bytes kept beyond their time because a subscriber needs them";
    "sequencer.subscriber_lag_max" "duration" "10m" "1s to 24h" "how long a subscriber may leave a commit unacknowledged";
    "sequencer.optimistic" "yes/no" "false" "" "batches are proposed before they have a proof; who votes holds them";
    "sequencer.optimistic_age_min" "duration" "50ms" "0s to 10s" "a batch is proposed without a proof this long after it arrived";
    "sequencer.optimistic_signing_delay" "duration" "100ms" "0s to half of resend_interval" "a batch that may be ordered without a proof is signed for this late, or not at all";
    "sequencer.optimistic_batch_age_max" "duration" "2ms" "1ms to 1s" "beside batch_age_max with sequencer.optimistic: few batches that are not certified may be smaller";
    "sequencer.optimistic_blame" "duration" "10s" "100ms to 10m" "after a failed proposal, authors of its batches without a proof are not trusted with more for this long";
    "sequencer.inline_batches_max" "batches" "4" "0 to 64" "small own batches that may travel in an own proposal, with sequencer.optimistic";
    "sequencer.inline_bytes_max" "size" "64.0 KiB" "" "the same in bytes, all together";
    "sequencer.announce_interval" "duration" "500ms" "10ms to 1s" "what is granted is announced at least this often";
    "sequencer.source.idle_interval" "duration" "250ms" "10ms to 10s" "a source of transactions that said nothing is asked again after this long";
    "sequencer.source.seen_exclusion" "duration" "2s" "10ms to 1m" "a transaction seen in an uncertified batch of another validator is not pulled for this long";
    "sequencer.source.in_progress_max" "transactions" "1000000" "at least 1000" "transactions in progress that are remembered; about 100 bytes of memory each";
    "sequencer.pressure.threshold_percent" "percent" "75" "10 to 100" "below this share of its bound nothing counts as pressure; from there on the lowest accepted gas bucket rises";
    "sequencer.pressure.outstanding_transactions_max" "transactions" "262144" "at least 1" "transactions in own batches not ordered yet: the bound for pressure";
    "sequencer.pressure.uncertified_batches_max" "batches" "2048" "at least 1" "own batches that wait for votes: the bound for pressure";
    "sequencer.pressure.proofs_max" "proofs" "65536" "at least 1" "proofs that wait to be ordered: the bound for pressure";
    "sequencer.pressure.commit_time_max" "duration" "15s" "100ms to 10m" "from sealing a batch to its commit: the bound for pressure";
    "sequencer.pressure.disk_lag_max" "duration" "4s" "10ms to 10m" "a group on its way to the disk: the bound for pressure";
    "sequencer.pull_rate.min" "transactions/s" "500" "at least 1" "so many leave the pool whatever the pressure";
    "sequencer.pull_rate.max" "transactions/s" "200000" "above min, to 10^9" "from here on nothing is limited";
    "sequencer.pull_rate.increase" "transactions/s" "20000" "1 to 10^9" "added after each interval without pressure";
    "sequencer.pull_rate.decrease_percent" "percent" "50" "1 to 99" "what is left of the rate after an interval with pressure";
    "sequencer.pull_rate.interval" "duration" "1s" "10ms to 1m" "the rate changes at most this often";
    "sequencer.leases.life_max" "duration" "10s" "10ms to 1m" "longest life of a lease";
    "sequencer.leases.client_bytes_max" "size" "4.0 MiB" "at least 1; half of the pool counts" "reserved for one client";
    "sequencer.leases.client_transactions_max" "transactions" "16384" "at least 1; half of the pool counts" "reserved for one client";
    "sequencer.leases.client_leases_max" "leases" "64" "at least 1" "of one client at once";
    "sequencer.leases.leases_max" "leases" "4096" "at least client_leases_max" "of all clients at once";
    "engine.ingress_workers" "threads" "2" "1 to 64" "threads that decode, hash and verify what arrives";
    "engine.link_queue" "messages" "1024" "16 to 2^20" "messages between links and those threads, beside their byte budgets";
    "engine.inbox" "inputs" "65536" "64 to 2^24" "inputs that wait for the core, per class";
    "engine.host_queue" "requests" "4096" "16 to 2^20" "requests of the validator that wait for the core";
    "engine.submit_queue_bytes" "size" "32.0 MiB" "1MiB to 2GiB" "transactions that wait for the core";
    "engine.cache_bytes" "size" "64.0 MiB" "1MiB to 1TiB" "batches and payloads kept in memory for execution and serving";
    "engine.proof_cache" "proofs" "16384" "64 to 2^24" "verified proofs remembered";
    "engine.serve_queue" "requests" "256" "4 to 2^20" "requests of one validator that wait to be served; beyond it it is told to ask later";
    "engine.serve_bytes_per_second" "size" "64.0 MiB" "1MiB to 1TiB" "content sent to one validator that asks for it, a second";
    "engine.serve_link_bytes" "size" "8.0 MiB" "64KiB to 2GiB" "bulk that waits on a link beyond which it gets no content";
    "engine.readers" "reads" "2" "1 to 64" "reads of the disk at once, for serving and execution";
    "engine.disk_reserve" "size" "1.0 GiB" "16MiB to 1PiB" "below this much free space no batches are admitted";
    "engine.disk_check_interval" "duration" "1s" "10ms to 10s" "how often free space is looked at";
    "engine.invalid_per_minute_max" "messages" "100" "at least 1" "invalid messages of one validator that close its link";
    "engine.restart_backoff" "duration" "100ms" "1ms to 10s" "pause before the core is rebuilt from the store after a panic; doubles, and the third within a minute is final";
    "engine.source_pull_timeout" "duration" "1s" "10ms to 1m" "a source of transactions that has not answered after this long has given nothing";
    "engine.event_queue" "events" "65536" "16 to 2^24" "events kept for a slow listener";
    "storage.segment_bytes" "size" "32.0 MiB" "1MiB to 4GiB" "length of a segment of the journal, which holds at least three times sequencer.group_bytes_max; that of a store that exists stays";
    "storage.segments_max" "segments" "256" "4 to 65536" "most segments, which bounds the disk used; a full journal admits nothing until something expires";
    "storage.direct_io" "yes/no" "true" "" "the journal bypasses the page cache where it can";
];

/// The options of `genesis.toml`: chain parameters, equal at every validator.
#[rustfmt::skip]
pub const GENESIS_OPTIONS: &[OptionRow] = rows![
    "nonce" "hex" "" "32 random bytes" "makes the chain unique";
    "parameters.batch_lifetime" "duration" "30s" "1s to 1h" "how long a batch may wait to be ordered";
    "parameters.grace" "duration" "30s" "1s to 1h" "how long content is kept after it expired";
    "parameters.clock_allowance" "duration" "500ms" "1ms to batch_lifetime" "how far clocks may differ";
    "parameters.transaction_bytes_max" "size" "64KiB" "1B to 1MiB, 16 below batch_bytes_max" "largest transaction, with price and expiration";
    "parameters.batch_transactions_max" "transactions" "8192" "1 to 65536" "most transactions in a batch";
    "parameters.batch_bytes_max" "size" "1MiB" "1B to 4MiB" "largest batch body";
    "parameters.payload_bytes_max" "size" "960KiB" "4KiB to 4MiB" "largest encoded payload";
    "parameters.transaction_life_max" "duration" "30s" "1s to 2m" "longest life of a transaction: bounds replay protection";
    "validators[].key" "hex" "" "distinct" "public key of a validator";
    "validators[].power" "votes" "" "any n - f validators hold a quorum" "its voting power";
];

/// The text that `validator config` prints.
pub fn describe() -> String {
    let mut text = String::new();
    for (title, rows) in
        [("validator-<i>.toml", OPTIONS), ("genesis.toml (chain parameters)", GENESIS_OPTIONS)]
    {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{title}\n");
        let _ =
            writeln!(text, "| option | unit | default | bound | meaning |\n|---|---|---|---|---|");
        for row in rows {
            let default = if row.default.is_empty() { "(required)" } else { row.default };
            let OptionRow { name, unit, bound, meaning, .. } = row;
            let _ = writeln!(text, "| {name} | {unit} | {default} | {bound} | {meaning} |");
        }
        text.push('\n');
    }
    text
}
