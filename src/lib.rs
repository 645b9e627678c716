//! Durable batch dissemination for BFT validators.
//!
//! Transactions become batches; each validator makes a batch durable **before** it signs for it; a
//! quorum of signatures makes a proof of store; a consensus engine orders proofs; execution gets
//! the transactions back.
//!
//! The crate is a pure core ([`sequencer`]) in a thin shell ([`engine`]). What cannot happen, and
//! why, is told where it is enforced: durability in [`store`], commits in [`sequencer`], signatures
//! in [`crypto`].
//!
//! Four seams, no more: [`store::Store`] (sealed), `transport::Transport`, [`crypto::Signer`], and
//! time, which is an argument of the core.
//!
//! # Embedding it
//!
//! All of it, runnable: `cargo run --release --example embed`.
//!
#![cfg_attr(feature = "engine", doc = "```")]
#![cfg_attr(not(feature = "engine"), doc = "```ignore")]
#![doc = include_str!("../examples/embed.rs")]
//! ```
//!
//! # Chapters
//!
//! [For operators](docs::operators), and [guarantees and their limits](docs::guarantees).
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | none | `types`, `crypto`, `sequencer`, the in-memory store: no files, no threads |
//! | `engine` | the tokio shell and the in-memory transport |
//! | `storage` (default) | data directories and locks, the journal, the offline check |
//! | `rocksdb` | a store in RocksDB, which the journal is measured against; wants C++ |
//! | `quic` (default) | encrypted, authenticated links |
//! | `testkit` | pieces for testing an embedder |

pub mod config;
pub mod crypto;
#[cfg(doc)]
pub mod docs;
#[cfg(feature = "engine")]
pub mod engine;
pub mod sequencer;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
#[cfg(feature = "engine")]
pub mod transport;
mod tripwire;
pub mod types;
