//! The runtime that engines live in, and the only generic function of the crate.

use crate::{
    Application, Engine, EngineConfig, OrderingError, RuntimeConfig,
    adapter::panic_message,
    journals::Journals,
    network::{CONNECT_TIMEOUT, LINK_SILENCE_MAX},
};
use commonware_runtime::{Metrics as _, Runner as _, tokio};
use futures::future::LocalBoxFuture;
use std::{
    cell::Cell,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

/// Starts engines. Lives as long as the call of [`run`] that made it; clones are the same runtime.
#[derive(Clone)]
pub struct Runtime {
    context: Arc<tokio::Context>,
    journals: Arc<Journals>,
}

impl Runtime {
    /// Starts ordering one epoch.
    ///
    /// Returns once the configuration is found good; what fails later, such as the address being
    /// in use, is told by [`Engine::failed`]. Address and journal of an engine that is just ending
    /// are waited for.
    pub fn start(
        &self,
        config: EngineConfig,
        application: Arc<dyn Application>,
    ) -> Result<Engine, OrderingError> {
        Engine::start(&self.context, &self.journals, config, application)
    }

    /// Returns the metrics of the runtime and all its engines in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        self.context.encode()
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

/// Runs `root` inside the ordering engine's runtime, on the calling thread, until it returns.
///
/// Inside, everything of tokio works: tasks, sockets, timers, so that a validator needs no other
/// runtime. When `root` has returned, engines that still run are ended and awaited, tasks of
/// `tokio::spawn` are dropped, and blocking ones are awaited. A panic of `root` is passed on.
///
/// Blocks while another process holds [`RuntimeConfig::directory`].
pub fn run<T, F, Fut>(config: RuntimeConfig, root: F) -> Result<T, OrderingError>
where
    F: FnOnce(Runtime) -> Fut,
    Fut: Future<Output = T>,
{
    // Boxed here, so that everything below is compiled once, in this crate.
    let mut output = None;
    let slot = &mut output;
    run_boxed(
        config,
        Box::new(move |runtime| {
            let root = root(runtime);
            Box::pin(async move { *slot = Some(root.await) })
        }),
    )?;
    // Proof: `run_boxed` returns Ok only after it has driven the future above to its end.
    #[allow(clippy::expect_used, reason = "filled by the future that has completed")]
    Ok(output.expect("the root has completed"))
}

type Root<'a> = Box<dyn FnOnce(Runtime) -> LocalBoxFuture<'a, ()> + 'a>;

/// Builds the runtime and drives `root` to its end.
fn run_boxed(config: RuntimeConfig, root: Root<'_>) -> Result<(), OrderingError> {
    if ::tokio::runtime::Handle::try_current().is_ok() {
        return Err(OrderingError::NestedRuntime);
    }
    std::fs::create_dir_all(&config.directory)
        .map_err(|source| OrderingError::Directory { path: config.directory.clone(), source })?;
    // A panic inside an engine ends that engine and is told by `Engine::failed`, so that the host
    // can end in order. Were panics not caught, the root would be dropped wherever it stands.
    let runner = tokio::Config::new()
        .with_worker_threads(config.worker_threads.max(1))
        .with_storage_directory(config.directory)
        .with_catch_panics(true)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_read_write_timeout(LINK_SILENCE_MAX);

    // Whatever goes wrong while the runtime is set up is a panic there. Once the root runs, a
    // panic is its own and goes on.
    let entered = Cell::new(false);
    catch_unwind(AssertUnwindSafe(|| {
        tokio::Runner::new(runner).start(|context| {
            entered.set(true);
            root(Runtime { context: Arc::new(context), journals: Arc::default() })
        });
    }))
    .map_err(|panic| {
        if entered.get() {
            resume_unwind(panic);
        }
        OrderingError::RuntimeStart { reason: panic_message(&*panic) }
    })
}
