//! How a validator ends: who asks for it, and how long it may take.

use std::future::Future;
use std::io::Read as _;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;

/// Why a validator ends.
#[derive(Debug)]
pub enum End {
    /// It was asked to.
    Asked(&'static str),
    /// A part of it failed.
    Failure(Failure),
}

impl End {
    /// Says so in the log.
    pub fn log(&self) {
        match self {
            Self::Asked(by) => tracing::info!("{by}: draining"),
            Self::Failure(failure) => tracing::error!(%failure, "a part failed: draining"),
        }
    }

    /// The result of the process.
    pub fn result(self) -> Result<(), Failure> {
        match self {
            Self::Asked(_) => Ok(()),
            Self::Failure(failure) => Err(failure),
        }
    }
}

/// Listens for requests to end.
pub struct Ending {
    terminate: Signal,
    interrupt: Signal,
    input_ended: CancellationToken,
}

impl Ending {
    /// Listens for SIGTERM and SIGINT, and if wanted for the end of standard input.
    pub fn listen(end_with_stdin: bool) -> Result<Self, Failure> {
        let input_ended = CancellationToken::new();
        if end_with_stdin {
            watch_stdin(input_ended.clone())?;
        }
        Self::when(input_ended)
    }

    /// Listens for the signals, and for this.
    pub fn when(input_ended: CancellationToken) -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::other(format!("cannot take signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            input_ended,
        })
    }

    /// The first request to end.
    pub async fn first(&mut self) -> End {
        let input_ended = self.input_ended.clone();
        tokio::select! {
            () = self.signalled() => End::Asked("signal"),
            () = input_ended.cancelled() => End::Asked("standard input ended"),
        }
    }

    async fn signalled(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Drains, unless it takes too long or a second signal comes: then the process ends at once,
    /// as if it had been killed, which costs nothing but a longer start.
    pub async fn within(
        &mut self,
        timeout: Duration,
        drain: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let cause = tokio::select! {
            () = drain => return Ok(()),
            () = self.signalled() => "a second signal".to_owned(),
            () = tokio::time::sleep(timeout) => format!("draining took more than {timeout:?}"),
        };
        tracing::error!("{cause}: ending at once");
        // Returning would wait for tasks that do not end.
        std::process::exit(i32::from(Failure::other(cause).code()));
    }
}

/// Reads standard input to its end, on a thread of its own: the read cannot be cancelled, and a
/// runtime would wait for it. The thread is not joined: it holds nothing and ends with the process.
fn watch_stdin(ended: CancellationToken) -> Result<(), Failure> {
    let watch = move || {
        let mut input = std::io::stdin().lock();
        let mut ignored = [0; 1024];
        loop {
            match input.read(&mut ignored) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        ended.cancel();
    };
    let thread = std::thread::Builder::new().name("stdin".to_owned()).spawn(watch);
    thread.map(drop).map_err(|error| Failure::other(format!("cannot start a thread: {error}")))
}
