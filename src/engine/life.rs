//! One life of the sequencer inside the process: its threads and tasks, made together and ended
//! together.
//!
//! What outlives it belongs to the [`Node`]: the store, the transport with its links, caches,
//! metrics, and the handles of the host.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::NodeConfig;
use super::driver::{Driver, Queues};
use super::egress::{self, Sender};
use super::epochs::View;
use super::error::{Part, StartError, StopCause};
use super::faults::Faults;
use super::ingress::{Inboxes, Ingress};
use super::serve;
use super::shared::{Grants, Shared};
use super::source;
use super::writer;
use crate::sequencer::port::Input;
use crate::sequencer::{Sequencer, Setup};
use crate::store::Store;
use crate::transport::{LinkEvent, Refusal};
use crate::tripwire::Tripwire;

/// What all lives of one node have in common.
pub(super) struct Node {
    pub config: NodeConfig,
    pub shared: Arc<Shared>,
    pub sender: Sender,
    /// Read by the threads of the present life, one at a time.
    pub events: Arc<Mutex<mpsc::Receiver<LinkEvent>>>,
    pub tripwire: Tripwire,
}

/// How the host reaches the present life.
pub(super) struct Life {
    pub inboxes: Inboxes,
    /// Nothing is answered any more.
    pub ended: CancellationToken,
    pub faults: Arc<Faults>,
}

/// A life, and everything that has to end with it.
pub(super) struct Running {
    pub life: Arc<Life>,
    tasks: TaskTracker,
    threads: Vec<JoinHandle<()>>,
    writer: JoinHandle<Box<dyn Store>>,
}

/// Reads the store and rebuilds the sequencer from it.
pub(super) async fn recover(
    config: &NodeConfig,
    shared: &Shared,
    mut store: Box<dyn Store>,
) -> Result<(Box<dyn Store>, Sequencer), StartError> {
    let began = std::time::Instant::now();
    let recovering = tokio::task::spawn_blocking(move || {
        let recovered = store.recover();
        (store, recovered)
    });
    let (store, recovered) =
        recovering.await.map_err(|error| std::io::Error::other(error.to_string()))?;
    let setup = Setup {
        author: shared.author,
        genesis: config.genesis.clone(),
        epoch: config.epoch,
        committee: config.committee.clone(),
        config: config.sequencer.clone(),
    };
    let sequencer = Sequencer::recover(setup, recovered?, shared.now())?;
    shared.metrics.links.know(sequencer.peers());
    shared.show(View::of(shared.chain, &sequencer));
    shared.metrics.state.recovery_seconds.set(began.elapsed().as_secs_f64());
    shared.skips.send_replace(Arc::clone(sequencer.skips()));
    shared.pressure.send_replace(sequencer.pressure());
    let announcement = sequencer.announcement();
    let stored = |peer| (peer, sequencer.stored_of(&peer));
    let stored = sequencer.peers().map(stored).collect();
    *shared.grants.write().unwrap_or_else(PoisonError::into_inner) =
        Grants { announcement, stored };
    Ok((store, sequencer))
}

impl Node {
    /// Starts the threads and tasks of a life. Call inside a tokio runtime.
    pub fn start(
        &self,
        store: Box<dyn Store>,
        #[cfg_attr(not(test), expect(unused_mut, reason = "armed by tests"))]
        mut sequencer: Sequencer,
        stop: CancellationToken,
    ) -> std::io::Result<Running> {
        #[cfg(test)]
        sequencer.set_tripwire(self.tripwire.clone());
        let Self { config, shared, sender, .. } = self;
        let engine = &config.engine;
        let faults = Faults::new(stop, self.tripwire.clone());
        let tasks = TaskTracker::new();

        let (groups_sender, groups) = mpsc::channel(1);
        let (written_sender, written) = mpsc::channel(4);
        let (persisted_sender, persisted) = mpsc::channel(4);
        let (loopback_sender, loopback) = mpsc::channel(engine.inbox);
        let limits = serve::Limits {
            queue: engine.serve_queue,
            bytes_per_second: engine.serve_bytes_per_second.as_u64(),
            link_bytes: engine.serve_link_bytes.as_u64() as usize,
        };
        let jobs = Arc::new(serve::Jobs::new(shared.author, limits));
        let (queues, inboxes) = Queues::new(written, loopback, engine.inbox);

        let writer =
            writer::start(store, Arc::clone(&faults), groups, written_sender, persisted_sender)?;
        let ingress = Arc::new(Ingress::new(
            inboxes.clone(),
            Arc::clone(&jobs),
            sender.clone(),
            engine.invalid_per_minute_max,
            Arc::clone(&faults),
        ));
        let threads = Ingress::start(&ingress, engine.ingress_workers, &self.events)?;
        let guarded = |part| {
            let faults = Arc::clone(&faults);
            move |work| faults.guard_task(part, work)
        };
        let egress = egress::run(sender.clone(), Arc::clone(&faults), persisted, loopback_sender);
        tasks.spawn(guarded(Part::Egress)(egress));
        let faults_of_serving = Arc::clone(&faults);
        let serving =
            serve::run(sender.clone(), Arc::clone(&jobs), engine.readers, faults_of_serving);
        tasks.spawn(Arc::clone(&faults).guard_task(Part::Serve, serving));
        let watching = super::space::watch(
            Arc::clone(shared),
            inboxes.control.clone(),
            engine.disk_reserve.as_u64(),
            engine.disk_check_interval,
            faults.stop.clone(),
        );
        tasks.spawn(Arc::clone(&faults).guard_task(Part::Space, watching));
        let (puller, asked) = source::channel();
        shared.excluded.clear();
        if let Some(source) = &shared.hooks.source {
            let pulling = source::run(
                Arc::clone(shared),
                Arc::clone(source),
                asked,
                inboxes.bulk.clone(),
                engine.source_pull_timeout,
                faults.stop.clone(),
            );
            tasks.spawn(Arc::clone(&faults).guard_task(Part::Source, pulling));
        }
        let driver = Driver {
            shared: Arc::clone(shared),
            sender: sender.clone(),
            sequencer,
            queues,
            writer: groups_sender,
            jobs,
            puller,
            offence: Box::new(move |peer| ingress.offence(peer)),
            group_bytes_max: config.sequencer.group_bytes_max.as_u64(),
            faults: Arc::clone(&faults),
            first: self.links(),
            writing: false,
            observed: None,
        };
        tasks.spawn(Arc::clone(&faults).guard_task(Part::Sequencer, driver.run()));
        tasks.close();
        let life = Arc::new(Life { inboxes, ended: CancellationToken::new(), faults });
        Ok(Running { life, tasks, threads, writer })
    }

    /// Links that are up already, as the first inputs of a life. One whose event was lost with the
    /// life before is closed, and comes up again.
    fn links(&self) -> Vec<Input> {
        let transport = &self.sender.transport;
        let up: Vec<_> = transport.links().into_iter().filter(|link| link.up).collect();
        let mut hellos = self.shared.hellos();
        hellos.retain(|peer, _| up.iter().any(|link| link.peer == *peer));
        for link in up {
            if !hellos.contains_key(&link.peer) && link.ups > 0 && self.shared.lives() > 0 {
                transport.refuse(link.peer, Refusal::Restarted);
            }
        }
        hellos.iter().map(|(peer, hello)| Input::LinkUp { peer: *peer, hello: *hello }).collect()
    }
}

impl Running {
    /// Waits until every part has ended. The store comes back, for the next life.
    pub async fn ended(self, shared: &Shared) -> (StopCause, Option<Box<dyn Store>>) {
        let Self { life, tasks, threads, writer } = self;
        tasks.wait().await;
        // Whatever was promised has been handed out. Whoever still waits asks the next life.
        shared.replies.clear();
        shared.subscriptions.clear();
        life.ended.cancel();
        let joined = tokio::task::spawn_blocking(move || {
            let panicked = threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
            // Guarded: they end by themselves.
            assert!(panicked == 0, "{panicked} threads of the engine panicked");
            writer.join().ok()
        });
        let store = joined.await.ok().flatten();
        (life.faults.cause(), store)
    }
}
