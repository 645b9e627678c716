//! How a run destroys something half way, and looks at what comes of it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::disaster::{self, Aftermath, HOLD_DEADLINE, Kind, SILENCE_MAX};
use super::observer::Status;
use super::session::{Run, Session};
use crate::exit::Failure;
use crate::load::engine::LoadHandle;

const HOLD_INTERVAL: Duration = Duration::from_millis(50);

impl Run<'_> {
    /// True until what is to be destroyed is.
    pub(super) fn is_destruction_due(&self) -> bool {
        self.disaster.is_some() && self.aftermath.since.is_none()
    }

    /// Destroys it; everybody runs again afterwards.
    pub(super) async fn destroy(&mut self, load: &LoadHandle) -> Result<(), Failure> {
        let Some(disaster) = self.disaster.clone() else { return Ok(()) };
        match disaster.kind {
            Kind::Wipe(index) => {
                self.progress.say("a validator loses its disk");
                self.cluster.kill(index).await;
                disaster::wipe(self.binary, &self.members[index]).await?;
                load.disk_lost(index);
                self.cluster.start_again(self.binary, index)?;
            }
            Kind::Lose(count) => {
                self.progress.say("all validators lose batches");
                let held = std::fs::write(&disaster.hold, b"");
                held.map_err(|error| Failure::write("the hold on proposals", &error))?;
                self.hold(count as u64).await;
                for index in 0..self.members.len() {
                    self.cluster.kill(index).await;
                }
                let members = self.members.to_vec();
                let losing = tokio::task::spawn_blocking(move || disaster::lose(&members, count));
                self.aftermath.lost =
                    losing.await.map_err(|_| Failure::other("deleting batches panicked"))??;
                let released = std::fs::remove_file(&disaster.hold);
                released.map_err(|error| Failure::write("the hold on proposals", &error))?;
                for index in 0..self.members.len() {
                    self.cluster.start_again(self.binary, index)?;
                }
            }
        }
        self.aftermath.since = Some(Instant::now());
        Ok(())
    }

    /// Waits until somebody could propose so many batches.
    async fn hold(&self, count: u64) {
        let deadline = Instant::now() + HOLD_DEADLINE;
        // Twice as many: what a payload names already is not unordered.
        while Instant::now() < deadline {
            let status = self.observer.status(0).await;
            if status.and_then(|status| status.proofs()).is_some_and(|proofs| proofs >= 2 * count) {
                return;
            }
            sleep(HOLD_INTERVAL).await;
        }
    }

    /// Keeps evidence that has been committed, before the validators forget it.
    pub(super) async fn gather_evidence(&mut self) {
        let Some(disaster) = self.disaster.clone() else { return };
        if self.aftermath.since.is_none() || self.aftermath.is_complete() {
            return;
        }
        let Some(status) = self.observer.status(0).await else { return };
        for (index, content) in status.skipped() {
            if !self.aftermath.skipped.contains_key(&(index, content.clone()))
                && let Some(file) = self.observer.evidence(0, index, &content).await
            {
                self.aftermath.keep(&disaster.directory, index, &content, &file);
            }
        }
        if self.aftermath.is_complete() && !self.aftermath.lost.is_empty() {
            let since = self.aftermath.since.map_or(Duration::ZERO, |since| since.elapsed());
            self.aftermath.took = Some(since);
        }
    }

    /// What is wrong with what came of it.
    pub(super) fn judge_disaster(
        &self,
        statuses: &[Option<Status>],
        session: &Session,
    ) -> Vec<String> {
        let Some(disaster) = &self.disaster else { return Vec::new() };
        let Aftermath { since, .. } = &self.aftermath;
        let mut found = self.aftermath.judge(disaster.deadline);
        if since.is_none() {
            found.push("the run ended before anything was destroyed".to_owned());
        }
        if let Kind::Wipe(index) = disaster.kind {
            let silent = statuses.get(index).and_then(Option::as_ref).is_none_or(Status::is_silent);
            if silent && session.duration / 2 > SILENCE_MAX {
                found
                    .push(format!("validator {index} does not sign again after its disk was lost"));
            }
        }
        found
    }
}
