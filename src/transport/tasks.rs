//! Tasks with an owner: shutdown waits for them, and can drop those that do not end.

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[derive(Clone, Debug)]
pub(super) struct Tasks {
    /// So that whoever holds a transport may call it from any thread.
    runtime: Handle,
    tracker: TaskTracker,
    abandon: CancellationToken,
}

impl Tasks {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, tracker: TaskTracker::new(), abandon: CancellationToken::new() }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let abandon = self.abandon.clone();
        let task = async move {
            abandon.run_until_cancelled(task).await;
        };
        self.tracker.spawn_on(task, &self.runtime);
    }

    /// Waits until every task has ended by itself.
    pub(super) async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Drops tasks at their next await, and waits until all are gone.
    pub(super) async fn abandon(&self) {
        self.abandon.cancel();
        self.join().await;
    }
}
