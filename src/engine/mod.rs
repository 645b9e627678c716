//! The shell around the pure core: threads, queues, sockets and files.
//!
//! ```text
//!  transport ─ LinkEvent ─▶ ingress (decode, hash, verify in parallel) ─ Input ─┐
//!  host ─────── handle ──────────────────────────────────────────────── Input ─▶ driver
//!                                                       Sequencer::step │ (one task)
//!                                   Effects: send, reply, event ◀───────┤
//!                                                                       │ Group
//!     egress (sign, send, reply) ◀─ Durable<Promise> ── writer (fsync) ◀┘
//!        └──── own votes, and "group n is durable" ─▶ loopback ─▶ driver, read first
//! ```
//!
//! One group syncs while the next one fills: the driver hands the open group to the writer as soon
//! as the writer is free, and there is no timer to tune. Egress handles groups in order, so no
//! promise overtakes the record that it depends on.
//!
//! **Bounds.** Every inbound frame is counted against its peer's budget until the sequencer has
//! taken it; requests of the host wait in a queue of `host_queue` entries; a full open group stops
//! the driver from taking inbox input, never completions. Replies to the host go through oneshot
//! channels, one per request.
//!
//! **Failure.** A panic in any part, or a store error, ends all parts together: the group in flight
//! finishes and its promises leave, the open one is dropped. After a panic the sequencer is rebuilt
//! from its store inside the process, with a pause that doubles, and calls go on there
//! (`supervisor`). A store error, or a third panic within a minute, is final: every call ends with
//! [`CallError::Stopped`], and [`QuorumStore::stopped`] tells the host the cause.

mod admission;
mod config;
mod driver;
mod egress;
mod epochs;
mod error;
mod faults;
mod filter;
mod handle;
mod hooks;
mod ingress;
mod life;
mod materialize;
mod metrics;
mod serve;
mod shared;
mod signers;
mod source;
mod space;
mod subscription;
mod supervisor;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use config::{ConfigError, EngineConfig, NodeConfig};
pub use error::{AcknowledgeError, CallError, Part, StartError, StopCause, SubscriptionError};
pub use filter::{Filter, Filtered};
pub use handle::QuorumStore;
pub use hooks::Hooks;
pub use materialize::{Materialized, MaterializedBatch, Materializing, Step};
pub use metrics::{Distribution, Statistics};
pub use source::{Exclusions, SourceFuture, TransactionSource};
pub use subscription::{Acknowledger, Subscription};
pub use supervisor::Restarts;
