//! The supervisor: runs one life of the sequencer after the other.
//!
//! ```text
//!   start ──▶ life ── panic in any part ──▶ all parts end ──▶ pause ──▶ recover ──▶ life
//!               │                                └── third within a minute ──▶ final
//!               ├── the store failed ──▶ final          (never written to again)
//!               └── shutdown ──▶ final
//! ```
//!
//! A life that broke leaves nothing in memory that the next one trusts: the sequencer is rebuilt
//! from the store, as after a crash of the process, and so no component can be ahead of another.
//! What was promised is durable; commits that were logged are applied again from the log; commits
//! that were not are told again by the calls that wait for their receipts. Links stay up.
//!
//! The host keeps its handles. Calls wait for the next life and are repeated there; all of them
//! may be, but for `submit`, which ends with the cause. [`QuorumStore::restarts`] tells of it.
//!
//! [`QuorumStore::restarts`]: super::QuorumStore::restarts

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Part, StartError, StopCause};
use super::life::{self, Life, Node, Running};
use crate::store::Store;

/// So many failures within this time are final.
const FAILURES_MAX: usize = 3;
const FAILURE_WINDOW: Duration = Duration::from_mins(1);
/// The pause before a restart doubles up to this many times.
const BACKOFF_DOUBLINGS_MAX: u32 = 6;

/// How often the sequencer was rebuilt inside the process, and why the last time.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Restarts {
    /// Since the start.
    pub count: u64,
    /// What the last one followed.
    pub cause: Option<StopCause>,
}

/// What the host's handle sees.
#[derive(Clone)]
pub(super) enum State {
    /// Calls go to this life.
    Running(Arc<Life>),
    /// The next life is being prepared.
    Restarting,
    /// There will be none.
    Stopped,
}

pub(super) struct Supervisor {
    pub node: Node,
    pub state: watch::Sender<State>,
    pub restarts: watch::Sender<Restarts>,
    /// Of the host.
    pub stop: CancellationToken,
}

impl Supervisor {
    /// Runs until the host stops it, the store fails, or lives fail too often.
    pub async fn run(self, first: Running) {
        let mut running = first;
        let mut failures = VecDeque::new();
        let cause = loop {
            let (cause, store) = running.ended(&self.node.shared).await;
            let StopCause::Broken { part, .. } = &cause else { break cause };
            failures.push_back(Instant::now());
            failures.retain(|at| at.elapsed() < FAILURE_WINDOW);
            self.node.shared.metrics.restarts.failed(*part);
            if failures.len() >= FAILURES_MAX {
                tracing::error!("the third failure within a minute: it is final");
                break cause;
            }
            let Some(store) = store else { break cause };
            self.state.send_replace(State::Restarting);
            self.restarts.send_modify(|restarts| {
                restarts.count += 1;
                restarts.cause = Some(cause.clone());
            });
            match self.restart(failures.len() as u32, store).await {
                Ok(next) => running = next,
                Err(cause) => break cause,
            }
        };
        self.node.shared.stop_with(cause);
        self.state.send_replace(State::Stopped);
        self.node.sender.transport.shutdown().await;
    }

    async fn restart(&self, failures: u32, store: Box<dyn Store>) -> Result<Running, StopCause> {
        let doublings = (failures - 1).min(BACKOFF_DOUBLINGS_MAX);
        let pause = self.node.config.engine.restart_backoff * 2_u32.pow(doublings);
        if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Err(StopCause::Shutdown);
        }
        tracing::info!("the sequencer is rebuilt from its store");
        let Node { config, shared, .. } = &self.node;
        let (store, sequencer) =
            life::recover(config, shared, store).await.map_err(|error| match error {
                StartError::Store(error) => StopCause::Storage(error),
                other => StopCause::Broken { part: Part::Sequencer, message: other.to_string() },
            })?;
        shared.count_life();
        let started = self.node.start(store, sequencer, self.stop.child_token());
        let running = started.map_err(|error| StopCause::Broken {
            part: Part::Sequencer,
            message: format!("starting a thread: {error}"),
        })?;
        self.state.send_replace(State::Running(Arc::clone(&running.life)));
        Ok(running)
    }
}
