//! Ctrl-C and SIGTERM of a command: the first asks it to stop cleanly, the second to stop now.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;

/// Listens from when it is made.
pub struct Interrupt {
    first: CancellationToken,
    second: CancellationToken,
    listener: JoinHandle<()>,
}

impl Interrupt {
    /// Takes over both signals for the rest of the process.
    pub fn listen() -> Result<Self, Failure> {
        let fail = |error| Failure::other(format!("cannot listen to signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let tokens = [first.clone(), second.clone()];
        let listener = tokio::spawn(async move {
            for token in tokens {
                either(&mut interrupt, &mut terminate).await;
                token.cancel();
            }
        });
        Ok(Self { first, second, listener })
    }

    /// Completes once a signal came.
    pub async fn requested(&self) {
        self.first.cancelled().await;
    }

    /// Completes once a second signal came.
    pub async fn insisted(&self) {
        self.second.cancelled().await;
    }

    /// Stops listening.
    pub async fn end(self) {
        self.listener.abort();
        // Aborted, so it ends at once; it has no result.
        let _ = self.listener.await;
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
