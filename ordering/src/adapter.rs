//! Stands between the engine and the application: one task per question, nothing detached.
//!
//! The engine asks through channels and drops its end when it has lost interest; then the
//! application's future is dropped too. The tasks are children of the engine's own task, so they
//! also end with it, and each holds the lease that [`Engine::stop`](crate::Engine::stop) waits for.

use crate::{
    Application, Context, OrderingError,
    certificate::report,
    committee::{Digest, key_bytes},
    journals::Lease,
};
use ::tokio::sync::mpsc;
use commonware_actor::Feedback;
use commonware_consensus::{
    Automaton, CertifiableAutomaton, Relay, Reporter,
    simplex::{self, Plan, scheme::ed25519::Scheme, types::Activity},
    types::Round,
};
use commonware_cryptography::ed25519::PublicKey;
use commonware_runtime::{Spawner as _, Supervisor as _, tokio};
use commonware_utils::{channel::oneshot, ordered::Set};
use futures::FutureExt as _;
use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The application as the engine sees it. Clones share everything, the lease of the engine too.
#[derive(Clone)]
pub(crate) struct Adapter {
    shared: Arc<Shared>,
}

/// What all clones need.
struct Shared {
    application: Arc<dyn Application>,
    /// Parent of the tasks that answer.
    context: tokio::Context,
    /// Keys of the committee, in order.
    committee: Set<PublicKey>,
    /// Takes the first panic of the application.
    failures: mpsc::Sender<OrderingError>,
    /// Highest view reported. A certificate of a lower view can still arrive after it; it says
    /// nothing new, and without it the application can rely on views that rise.
    reported: AtomicU64,
    /// Ends with the last clone. The last field, so that the application is let go before.
    _lease: Lease,
}

impl Shared {
    /// Reports a panic of the application. Only the first one counts; it stops the engine.
    fn panicked(&self, panic: &(dyn Any + Send)) {
        let message = panic_message(panic);
        let _ = self.failures.try_send(OrderingError::ApplicationPanicked { message });
    }
}

impl Adapter {
    /// Returns the adapter of an application. Its tasks are children of `context`.
    pub(crate) fn new(
        application: Arc<dyn Application>,
        context: tokio::Context,
        committee: Set<PublicKey>,
        failures: mpsc::Sender<OrderingError>,
        lease: Lease,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                application,
                context,
                committee,
                failures,
                reported: AtomicU64::new(0),
                _lease: lease,
            }),
        }
    }

    /// Runs `ask` in a task until it answers or nobody waits for the answer. Without an answer
    /// the receiver sees the channel closed.
    fn answer<T, F>(
        &self,
        label: &'static str,
        ask: impl FnOnce(Arc<dyn Application>) -> F + Send + 'static,
    ) -> oneshot::Receiver<T>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let (mut sender, receiver) = oneshot::channel();
        let shared = self.shared.clone();
        let task = self.shared.context.child(label).spawn(move |_| async move {
            let application = shared.application.clone();
            // The call itself is inside as well: also what runs before the first await may panic.
            let answer = AssertUnwindSafe(async move { ask(application).await }).catch_unwind();
            ::tokio::select! {
                biased;
                () = sender.closed() => {}
                answer = answer => match answer {
                    Ok(Some(answer)) => {
                        // Failure means that nobody waits any more.
                        let _ = sender.send(answer);
                    }
                    Ok(None) => {}
                    Err(panic) => shared.panicked(&*panic),
                },
            }
        });
        // The task ends with the channel or with the engine's task; nothing is left to wait for.
        drop(task);
        receiver
    }

    /// Calls the application at once. It must not take the voter down with it when it panics,
    /// because the cause would be lost; the engine stops all the same.
    fn call(&self, call: impl FnOnce(&dyn Application)) -> Feedback {
        match catch_unwind(AssertUnwindSafe(|| call(&*self.shared.application))) {
            Ok(()) => Feedback::Ok,
            Err(panic) => {
                self.shared.panicked(&*panic);
                Feedback::Closed
            }
        }
    }
}

impl Automaton for Adapter {
    type Context = simplex::types::Context<Digest, PublicKey>;
    type Digest = Digest;

    async fn propose(&mut self, context: Self::Context) -> oneshot::Receiver<Digest> {
        let context = public_context(&context);
        self.answer("propose", move |application| async move {
            application.propose(context).await.map(Digest)
        })
    }

    async fn verify(&mut self, context: Self::Context, digest: Digest) -> oneshot::Receiver<bool> {
        let context = public_context(&context);
        self.answer("verify", move |application| async move {
            Some(application.verify(context, digest.0).await)
        })
    }
}

impl CertifiableAutomaton for Adapter {
    async fn certify(&mut self, round: Round, digest: Digest) -> oneshot::Receiver<bool> {
        let (epoch, view) = (round.epoch().get(), round.view().get());
        self.answer("certify", move |application| async move {
            Some(application.certify(epoch, view, digest.0).await)
        })
    }
}

impl Relay for Adapter {
    type Digest = Digest;
    type PublicKey = PublicKey;
    type Plan = Plan<PublicKey>;

    fn broadcast(&mut self, digest: Digest, _: Self::Plan) -> Feedback {
        self.call(|application| application.broadcast(digest.0))
    }
}

impl Reporter for Adapter {
    type Activity = Activity<Scheme, Digest>;

    fn report(&mut self, activity: Self::Activity) -> Feedback {
        let Activity::Finalization(finality) = activity else {
            return Feedback::Ok;
        };
        let view = finality.proposal.round.view().get();
        // Only the voter reports finalisations, so no two of them race here.
        if self.shared.reported.fetch_max(view, Ordering::Relaxed) >= view {
            return Feedback::Ok;
        }
        let finalized = report(&finality, &self.shared.committee);
        self.call(|application| application.finalized(finalized))
    }
}

/// Returns the context in types of this crate.
fn public_context(context: &simplex::types::Context<Digest, PublicKey>) -> Context {
    let (parent_view, Digest(parent)) = context.parent;
    Context {
        epoch: context.round.epoch().get(),
        view: context.round.view().get(),
        leader: key_bytes(&context.leader),
        parent_view: parent_view.get(),
        parent,
    }
}

/// Returns what a panic said, if it said anything.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        String::from("(no message)")
    }
}
