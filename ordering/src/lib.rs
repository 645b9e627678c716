//! Orders 32-byte digests among the validators of one epoch.
//!
//! A thin shell around the `simplex` consensus of commonware, with nothing generic in its surface:
//! the consensus machinery is instantiated in this crate once, so that a validator that embeds it
//! links in seconds.
//!
//! ```text
//!   validator                          this crate                            peers
//!  +-------------+  propose, verify   +-----------------------------+      +--------+
//!  | Application |<-------------------| adapter --- simplex voter   |      |        |
//!  |             |  certify           |    |          | journal     |<---->| other  |
//!  |             |------------------->|    |          v fsync       | TCP  | voters |
//!  |             |  finalized         |    +---- batcher, resolver  |      |        |
//!  +-------------+<-------------------+-----------------------------+      +--------+
//! ```
//!
//! What is ordered is a digest and nothing else. The bytes behind it travel on the validator's own
//! links ([`Application::broadcast`] says when), and the engine never sees them.
//!
//! # What it guarantees
//!
//! - **One chain.** With at most `f` faulty of `3f + 1` participants, no two validators ever see
//!   finalised digests of the same epoch that are not on one chain of parents.
//! - **No vote before it is on disk.** The engine's journal is synced before each message leaves.
//!   A validator that is killed at any moment, and one cut from power on a disk that honours
//!   fsync, resumes from its journal without contradicting what it has said. The journal lies in
//!   [`RuntimeConfig::directory`], under `<partition_prefix>-<epoch>`; deleting it while the epoch
//!   runs makes the validator forget its votes, and that makes it faulty.
//! - **Nothing left behind.** Every task, also those that run the application's futures, belongs
//!   to its [`Engine`] and ends with it. [`Engine::stop`] waits for that.
//! - **Names of its own.** Every signature and every handshake is bound to an ASCII domain, the
//!   chain id, the epoch and the committee. Messages of another chain, epoch or committee do not
//!   verify, and links between them are not established in the first place.
//!
//! # What the validator has to do for it
//!
//! - **Durable before true.** A finalised digest is only as good as the bytes behind it. If a
//!   quorum votes for bytes that are only in memory, a power cut leaves a digest in the chain that
//!   nobody can open, and the chain stops. So [`Application::propose`], [`Application::verify`]
//!   and [`Application::certify`] answer only after the bytes are durable here.
//! - **Pending, not false.** `verify` and `certify` are asked once. `false` is for what can never
//!   become valid, since validators that disagree about it cannot make progress together. For
//!   what is missing, early or late the future stays pending; the engine drops it when nobody
//!   wants the answer any more.
//! - **Pace.** A proposal that is answered at once is ordered at once: four idle validators order
//!   some 180 empty digests a second and use a core for it. `propose` should wait until there is
//!   something to order and the block interval has passed, but well below
//!   [`EngineConfig::leader_timeout`], or the view is lost.
//! - **Walk.** [`Application::finalized`] names the newest digest only. Its ancestors are final as
//!   well and are *not* reported one by one: walk the parents down to what is already known. After
//!   a restart, finalisations that were reported before come again (the last
//!   [`EngineConfig::view_retention`] views), so applying one must be idempotent.
//! - **Clocks.** Handshakes carry times: validators whose clocks differ by more than 5 s do not
//!   connect. Once linked, clocks do not matter.
//!
//! # What it is not
//!
//! - **No voting power.** Simplex counts participants: each has one vote, and the quorum is
//!   `n - (n - 1) / 3` of them. A committee with unequal power cannot be expressed, and a host
//!   whose own quorum is weighted must not take one for the other.
//! - **No storage or transport for blocks**, no execution, no state sync.
//! - **No epochs by itself.** An engine serves one epoch. For the next one, stop it and start
//!   another; see [`EngineConfig::genesis`].
//!
//! # Failure
//!
//! A failed write or fsync of the journal, a port that cannot be bound and a panic of the
//! application stop the engine as a whole, and [`Engine::failed`] says why. It never goes on in
//! parts, and it is not restarted from within: the host decides. A peer can lose its own link by
//! misbehaving (it is refused for [`EngineConfig::block_duration`]), and nothing else.
//!
//! # Example
//!
//! ```no_run
//! use futures::future::BoxFuture;
//! use quorum_store_ordering::{
//!     Application, Context, EngineConfig, Finalized, Participant, RuntimeConfig, run,
//! };
//! use std::sync::Arc;
//!
//! struct Validator;
//!
//! impl Application for Validator {
//!     fn propose(&self, context: Context) -> BoxFuture<'static, Option<[u8; 32]>> {
//!         Box::pin(async move { Some(context.parent) }) // build, make durable, then answer
//!     }
//!     fn verify(&self, _: Context, _: [u8; 32]) -> BoxFuture<'static, bool> {
//!         Box::pin(async { true }) // wait for the bytes, check them, make them durable
//!     }
//!     fn certify(&self, _: u64, _: u64, _: [u8; 32]) -> BoxFuture<'static, bool> {
//!         Box::pin(async { true }) // durable here
//!     }
//!     fn broadcast(&self, _: [u8; 32]) {}
//!     fn finalized(&self, finalized: Finalized) {
//!         println!("view {}: {:02x?}", finalized.view, finalized.digest);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (seed, chain_id, genesis) = (zeroize::Zeroizing::new([1; 32]), [2; 32], [3; 32]);
//! let key = quorum_store_ordering::public_key(&seed);
//! let address = "127.0.0.1:7000".parse()?;
//! let participants = vec![Participant { key, address }];
//! let runtime = RuntimeConfig { directory: "data/consensus".into(), worker_threads: 2 };
//! let cause = run(runtime, |runtime| async move {
//!     let config = EngineConfig::new(chain_id, 0, seed, address, participants, genesis);
//!     let mut engine = runtime.start(config, Arc::new(Validator))?;
//!     Ok::<_, quorum_store_ordering::OrderingError>(engine.failed().await)
//! })??;
//! println!("stopped: {cause}");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod adapter;
mod application;
mod certificate;
mod committee;
mod config;
mod engine;
mod error;
mod journals;
mod network;
mod runtime;

pub use application::{Application, Context, Finalized};
pub use certificate::verify_finalization;
pub use committee::public_key;
pub use config::{EngineConfig, Participant, RuntimeConfig};
pub use engine::Engine;
pub use error::{CertificateError, ConfigError, OrderingError};
pub use runtime::{Runtime, run};
