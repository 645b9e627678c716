//! For testing this crate and whoever embeds it. Nothing here belongs into production.
//!
//! [`Cluster`] runs N production sequencers in one thread and virtual time, with disks that tear,
//! links that lie, validators that lie more, and a [`Checker`] that keeps books of its own. The
//! same [`Options`] give the same run, event by event:
//!
//! ```
//! use std::time::Duration;
//! use quorum_store::testkit::{self, Cluster, Options};
//!
//! let mut cluster = Cluster::new(Options::calm(1, 4));
//! cluster.run_until(Duration::from_secs(60));
//! assert_eq!(cluster.checker().violation(), None);
//! assert!(cluster.checker().executed() > 0);
//!
//! // Bad days, from a seed.
//! let outcome = testkit::simulate(&Options::from_seed(7, 4)).unwrap();
//! assert!(outcome.executed > 0);
//! ```
//!
//! What it is not: the engine's threads and sockets (`tests/engine`), a file system that forgets
//! (`tests/power_loss`), or an ordering engine that can fail.

mod books;
mod byzantine;
mod checker;
mod cluster;
mod epochs;
mod execution;
mod faults;
mod followers;
pub mod fuzzing;
mod host;
mod ingress;
mod keys;
mod leasing;
mod loss;
mod network;
mod node;
mod options;
mod source;
mod store;
mod trace;

use std::collections::BTreeMap;

pub use byzantine::Lie;
pub use checker::{Checker, Violation};
pub use cluster::{Cluster, CrashPoint, StopPoint};
pub use keys::Keys;
pub use options::Options;
pub use store::{CrashStore, Tear};
pub use trace::Trace;

/// What a whole run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Equal for equal runs.
    pub hash: u64,
    /// Events in all.
    pub events: u64,
    /// Transactions executed.
    pub executed: usize,
    /// How often each kind of thing fired.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A run that broke a property.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which property.
    pub violation: Violation,
    /// The last events, oldest first.
    pub last: Vec<String>,
    /// Virtual seconds until then.
    pub seconds: u64,
}

/// Runs from the start to the end of the quiet part, and checks everything.
pub fn simulate(options: &Options) -> Result<Outcome, Box<Failure>> {
    let mut cluster = Cluster::new(options.clone());
    finish(&mut cluster)
}

/// Runs a cluster to its end, and checks everything.
pub fn finish(cluster: &mut Cluster) -> Result<Outcome, Box<Failure>> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cluster.run_to_end()));
    let violation = match outcome {
        Ok(violation) => violation,
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            let detail = words.unwrap_or_default();
            Some(Violation { property: "no core panics", detail })
        }
    };
    let trace = cluster.trace();
    if let Some(violation) = violation {
        let last = trace.last().collect();
        return Err(Box::new(Failure { violation, last, seconds: cluster.elapsed().as_secs() }));
    }
    Ok(Outcome {
        hash: trace.hash(),
        events: trace.events(),
        executed: cluster.checker().executed(),
        counts: trace.counts().clone(),
    })
}
