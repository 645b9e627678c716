//! One run, from the first process to the report.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at};

use super::chaos::{Chaos, Step};
use super::cluster::Cluster;
use super::disaster::{Aftermath, Disaster, Kind};
use super::epochs::Rotation;
use super::observer::{Observer, Status};
use super::series::Series;
use super::verdict::Evidence;
use super::workspace::Member;
use crate::exit::Failure;
use crate::load::Progress;
use crate::load::engine::{self, LoadHandle, LoadPlan};
use crate::load::interrupt::Interrupt;
use crate::load::source::Content;
use crate::load::units::Rate;
use crate::report::Report;
use crate::report::details::Details;

/// Load before the window: the first view after a start is lost to a timeout.
const WARM_UP: Duration = Duration::from_secs(2);
const READY_DEADLINE: Duration = Duration::from_secs(30);
const READY_INTERVAL: Duration = Duration::from_millis(100);
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
const CHECK_DEADLINE: Duration = Duration::from_mins(2);
const PROBLEMS_SHOWN: usize = 5;

/// What to run.
pub struct Session {
    /// This binary.
    pub binary: PathBuf,
    /// The validators.
    pub members: Vec<Member>,
    /// Transactions per second.
    pub rate: Rate,
    /// Length of the window.
    pub duration: Duration,
    /// What is sent.
    pub content: Content,
    /// Chooses the victims.
    pub seed: u64,
    /// A validator is killed and started again at this interval.
    pub kill_interval: Option<Duration>,
    /// The committee changes.
    pub rotation: Option<Rotation>,
    /// Something is destroyed half way.
    pub disaster: Option<Disaster>,
}

impl Session {
    /// Runs it. An error is what kept it from being judged; what was found wrong is in the report.
    pub async fn run(&self) -> Result<Report, Failure> {
        let interrupt = Interrupt::listen()?;
        let observer = Observer::new(&self.members);
        let mut details = Details { conditions: self.conditions(), ..Details::default() };
        let result = self.run_processes(&observer, &interrupt, &mut details).await;
        observer.end().await;
        let result = match result {
            Ok(evidence) => self.check_stores(evidence, &interrupt).await,
            Err(failure) => Err(failure),
        };
        interrupt.end().await;
        result.map(|evidence| Report { details, ..evidence.report() })
    }

    /// What is run, for readers of the report.
    fn conditions(&self) -> Vec<(&'static str, String)> {
        let transactions = match &self.content {
            Content::Random { transaction_bytes, .. } => format!("{transaction_bytes} bytes"),
            Content::Replay(_) => "from a file".to_owned(),
        };
        let epochs = self.rotation.as_ref().map_or(1, |rotation| rotation.epochs);
        vec![
            ("validators", self.members.len().to_string()),
            ("epochs", epochs.to_string()),
            ("offered", self.rate.to_string()),
            ("transactions", transactions),
            ("warm-up", format!("{} s", WARM_UP.as_secs())),
            ("window", format!("{:.0} s", self.duration.as_secs_f64())),
            ("seed", self.seed.to_string()),
        ]
    }

    /// Whatever happens in between, every process that was started is stopped and waited for.
    async fn run_processes(
        &self,
        observer: &Observer,
        interrupt: &Interrupt,
        details: &mut Details,
    ) -> Result<Evidence, Failure> {
        let progress = Progress::new(WARM_UP + self.duration);
        let hold = self.disaster.as_ref().map(|disaster| disaster.hold.clone());
        let mut run = Run {
            observer,
            interrupt,
            progress,
            chaos: None,
            disaster: self.disaster.clone(),
            aftermath: Aftermath::default(),
            members: &self.members,
            binary: &self.binary,
            cluster: Cluster::start(&self.binary, self.first(), hold)?,
            series: Series::new(),
            details,
        };
        let evidence = run.observe(self).await;
        run.progress.say("stopping");
        run.cluster.measure();
        let violations = run.cluster.stop(interrupt.insisted()).await;
        run.progress.clear();
        let mut evidence = evidence?;
        evidence.usages = run.cluster.usages();
        evidence.failures.extend(violations);
        Ok(evidence)
    }

    /// The validators that are there from the start.
    fn first(&self) -> &[Member] {
        let first = self.rotation.as_ref().map_or(self.members.len(), Rotation::last);
        &self.members[..first]
    }

    /// The offline check of each data directory, now that nobody uses it.
    async fn check_stores(
        &self,
        mut evidence: Evidence,
        interrupt: &Interrupt,
    ) -> Result<Evidence, Failure> {
        for member in &self.members {
            let problem = tokio::select! {
                problem = self.check_store(member) => problem,
                () = interrupt.requested() => return Err(interrupted()),
            };
            if let Some(problem) = problem {
                let index = member.index;
                evidence.failures.push(format!("the store of validator {index}: {problem}"));
            }
        }
        Ok(evidence)
    }

    async fn check_store(&self, member: &Member) -> Option<String> {
        let check = Command::new(&self.binary)
            .arg("check")
            .arg("--data-dir")
            .arg(&member.data_directory)
            .arg("--json")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match timeout(CHECK_DEADLINE, check).await {
            Ok(Ok(output)) if output.status.success() => None,
            Ok(Ok(output)) => {
                let found = problems(&output.stdout)
                    .unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned());
                Some(format!("the check failed ({}): {found}", output.status))
            }
            Ok(Err(error)) => Some(format!("the check cannot run: {error}")),
            Err(_) => Some(format!("the check took longer than {} s", CHECK_DEADLINE.as_secs())),
        }
    }

    fn plan(&self) -> LoadPlan {
        LoadPlan {
            targets: self.members.iter().map(|member| member.target.clone()).collect(),
            rate: self.rate,
            warm_up: WARM_UP,
            duration: self.duration,
            content: self.content.clone(),
            disks_may_be_lost: self.disaster.is_some(),
        }
    }
}

/// The first problems of a check's report.
fn problems(report: &[u8]) -> Option<String> {
    let report: Value = serde_json::from_slice(report).ok()?;
    let problems = report.get("problems")?.as_array()?;
    let text = |problem: &Value| match problem.as_str() {
        Some(text) => text.to_owned(),
        None => problem.to_string(),
    };
    let mut shown: Vec<_> = problems.iter().take(PROBLEMS_SHOWN).map(text).collect();
    if problems.len() > PROBLEMS_SHOWN {
        shown.push(format!("{} more", problems.len() - PROBLEMS_SHOWN));
    }
    (!shown.is_empty()).then(|| shown.join(", "))
}

fn interrupted() -> Failure {
    Failure::other("interrupted; every validator was stopped")
}

/// The part of a run in which the processes live.
pub(super) struct Run<'a> {
    pub(super) cluster: Cluster,
    pub(super) observer: &'a Observer,
    interrupt: &'a Interrupt,
    pub(super) progress: Progress,
    series: Series,
    details: &'a mut Details,
    chaos: Option<Chaos>,
    /// What is to be destroyed.
    pub(super) disaster: Option<Disaster>,
    pub(super) aftermath: Aftermath,
    pub(super) members: &'a [Member],
    pub(super) binary: &'a Path,
}

impl Run<'_> {
    async fn observe(&mut self, session: &Session) -> Result<Evidence, Failure> {
        self.progress.say("waiting until every validator is ready");
        self.ready(session.first().len()).await?;
        let epochs_before = epochs(&self.statuses().await);
        if let Some(rotation) = &session.rotation {
            rotation.write(SystemTime::now() + WARM_UP, session.duration)?;
            self.cluster.reload()?;
            self.cluster.add(self.binary, &session.members[rotation.last()])?;
        }
        let mut load = engine::start(session.plan());
        self.chaos = session.kill_interval.map(|interval| {
            Chaos::new(interval, session.members.len(), session.seed, load.window_start())
        });
        let outcome = self.watch(&mut load).await;
        self.note(&load);
        let load = load.finish().await;
        let Watched { failures, drained, window_cpu_seconds } = outcome?;
        let statuses = self.statuses().await;
        let groups = |status: &Option<Status>| status.as_ref().and_then(Status::groups);
        self.details.groups = statuses.iter().map(groups).collect();
        let height = common_height(&statuses);
        let blocks = match height {
            Some(height) => {
                let answers = self.observer.blocks(height).await;
                answers.into_iter().map(|block| block.map_err(|error| error.to_string())).collect()
            }
            None => Vec::new(),
        };
        let epochs = epochs(&statuses).zip(epochs_before).map(|(last, first)| last - first + 1);
        Ok(Evidence {
            load,
            drained,
            height,
            blocks,
            epochs,
            epochs_due: session.rotation.as_ref().map(|rotation| u64::from(rotation.epochs)),
            window_cpu_seconds,
            usages: Vec::new(),
            failures: failures.into_iter().chain(self.judge_disaster(&statuses, session)).collect(),
            wiped: matches!(self.disaster.as_ref().map(|d| d.kind), Some(Kind::Wipe(_))),
            skipped: self
                .disaster
                .as_ref()
                .map(|_| self.aftermath.skipped.values().cloned().collect()),
            skipped_after: self.aftermath.took,
            statuses,
        })
    }

    /// Keeps what only the load knows, before it ends.
    fn note(&mut self, load: &LoadHandle) {
        let since_start = |edge: Instant| {
            let elapsed = load.snapshot().elapsed.as_secs_f64();
            elapsed - Instant::now().saturating_duration_since(edge).as_secs_f64()
        };
        self.sample(load, true);
        self.details.window =
            Some((since_start(load.window_start()), since_start(load.window_end())));
        self.details.samples = std::mem::take(&mut self.series).into_samples();
        self.details.latencies = load.latency_curves();
    }

    /// Takes a sample if one is due.
    fn sample(&mut self, load: &LoadHandle, is_last: bool) {
        let snapshot = load.snapshot();
        if is_last || self.series.is_due(snapshot.elapsed) {
            self.cluster.measure();
            self.series.push(&snapshot, &self.cluster.usages());
        }
    }

    /// Waits until every validator is ready; a validator that ends ends the wait.
    async fn ready(&mut self, first: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_DEADLINE;
        let mut unready = Vec::new();
        loop {
            let failures = self.cluster.failures();
            if !failures.is_empty() {
                return Err(Failure::other(failures.join("\n")));
            }
            tokio::select! {
                answer = timeout_at(deadline, self.observer.unready(first)) => match answer {
                    Ok(answer) => unready = answer,
                    Err(_) => return Err(self.describe_unready(&unready)),
                },
                () = self.interrupt.requested() => return Err(interrupted()),
            }
            if unready.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.describe_unready(&unready));
            }
            sleep(READY_INTERVAL).await;
        }
    }

    fn describe_unready(&self, unready: &[(usize, String)]) -> Failure {
        let seconds = READY_DEADLINE.as_secs();
        let lines = unready.iter().map(|(index, reason)| {
            let tail = self.cluster.log_tail(*index);
            format!(
                "validator {index} is not ready after {seconds} s: {}; the end of its log:\n{tail}",
                reason.trim()
            )
        });
        Failure::other(lines.collect::<Vec<_>>().join("\n"))
    }

    /// Watches the load to its end and the drain after it. A validator that fails ends both: what
    /// it accepted has no outcome any more.
    async fn watch(&mut self, load: &mut LoadHandle) -> Result<Watched, Failure> {
        let (failures, marks) = self.offer(load).await?;
        load.stop_sending();
        let window_cpu_seconds = match marks.as_slice() {
            [Some(before), Some(after)] => Some(after - before),
            _ => None,
        };
        if !failures.is_empty() {
            return Ok(Watched { failures, drained: None, window_cpu_seconds });
        }
        self.progress.say("draining: waiting for equal heights and the last outcomes");
        let (drained, failures) = self.drain(load).await?;
        Ok(Watched { failures, drained: Some(drained), window_cpu_seconds })
    }

    /// Returns failed validators, and the processor time at both ends of the window.
    async fn offer(
        &mut self,
        load: &mut LoadHandle,
    ) -> Result<(Vec<String>, Vec<Option<f64>>), Failure> {
        let mut marks = Vec::new();
        let half = load.window_start() + (load.window_end() - load.window_start()) / 2;
        let mut ticks = interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let chaos = self.chaos.as_ref().map(Chaos::due);
            let edge = if marks.is_empty() { load.window_start() } else { load.window_end() };
            tokio::select! {
                biased;
                () = self.interrupt.requested() => return Err(interrupted()),
                () = sleep_until(edge), if marks.len() < 2 => {
                    self.cluster.measure();
                    marks.push(self.cluster.cpu_seconds());
                }
                () = sleep_until(chaos.unwrap_or(edge)), if chaos.is_some() => {
                    let failure = self.disturb().await?;
                    if let Some(failure) = failure {
                        return Ok((vec![failure], marks));
                    }
                }
                () = sleep_until(half), if self.is_destruction_due() => self.destroy(load).await?,
                () = load.sent() => return Ok((Vec::new(), marks)),
                _ = ticks.tick() => {
                    self.gather_evidence().await;
                    self.cluster.measure();
                    let failures = self.cluster.failures();
                    if !failures.is_empty() {
                        return Ok((failures, marks));
                    }
                    self.sample(load, false);
                    self.progress.show(load);
                }
            }
        }
    }

    /// Kills a validator, or sees to the one that was killed. Returns what went wrong.
    async fn disturb(&mut self) -> Result<Option<String>, Failure> {
        let Some(chaos) = &mut self.chaos else { return Ok(None) };
        match chaos.step(Instant::now()) {
            Step::Kill(victim) => self.cluster.restart(self.binary, victim).await?,
            Step::Ask(victim) => {
                if self.observer.is_ready(victim).await {
                    chaos.on_ready(Instant::now());
                }
            }
        }
        let overdue = chaos.overdue(Instant::now());
        Ok(overdue.map(|victim| {
            let tail = self.cluster.log_tail(victim);
            format!("validator {victim} is not ready after its restart; its log ends:\n{tail}")
        }))
    }

    /// Waits until every accepted transaction has its outcome and all validators have the same
    /// state at the same height.
    async fn drain(&mut self, load: &mut LoadHandle) -> Result<(bool, Vec<String>), Failure> {
        let deadline = Instant::now() + DRAIN_DEADLINE;
        let mut ticks = interval(DRAIN_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = self.interrupt.requested() => return Err(interrupted()),
                () = sleep_until(deadline) => return Ok((false, Vec::new())),
                _ = ticks.tick() => {}
            }
            let failures = self.cluster.failures();
            if !failures.is_empty() {
                return Ok((false, failures));
            }
            self.sample(load, false);
            self.gather_evidence().await;
            if load.snapshot().counts.unresolved > 0 || !self.aftermath.is_complete() {
                continue;
            }
            match timeout_at(deadline, self.statuses()).await {
                Ok(statuses) if settled(&statuses) => return Ok((true, Vec::new())),
                Ok(_) => {}
                Err(_) => return Ok((false, Vec::new())),
            }
        }
    }

    async fn statuses(&self) -> Vec<Option<Status>> {
        self.observer.statuses().await.into_iter().map(Result::ok).collect()
    }
}

struct Watched {
    failures: Vec<String>,
    /// `None`: not waited for.
    drained: Option<bool>,
    window_cpu_seconds: Option<f64>,
}

/// True if all say the same height and the same state.
fn settled(statuses: &[Option<Status>]) -> bool {
    let place = |status: &Option<Status>| {
        let status = status.as_ref()?;
        Some((status.height()?, status.state_digest()?.to_owned()))
    };
    let first = statuses.first().and_then(place);
    first.is_some() && statuses.iter().all(|status| place(status) == first)
}

/// The highest height that all have; `None` if somebody does not say.
fn common_height(statuses: &[Option<Status>]) -> Option<u64> {
    let heights: Option<Vec<_>> =
        statuses.iter().map(|status| status.as_ref().and_then(Status::height)).collect();
    heights?.into_iter().min()
}

/// The highest epoch that anybody serves.
fn epochs(statuses: &[Option<Status>]) -> Option<u64> {
    statuses.iter().flatten().filter_map(Status::epoch).max()
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
