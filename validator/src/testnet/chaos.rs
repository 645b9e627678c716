//! When somebody is killed, and who. Pure, but for the clock.
//!
//! The next kill waits until the last victim is ready again: with two of four down nothing is
//! ordered, and the run would test patience instead of recovery.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::source::SplitMix;
use crate::load::units::parse_duration;

/// How often a victim is asked whether it is ready.
const READY_INTERVAL: Duration = Duration::from_millis(100);
/// A victim that is not ready after this long has failed.
const READY_DEADLINE: Duration = Duration::from_secs(30);
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Reads `kill=D`: the interval between two kills.
pub fn parse_chaos(text: &str) -> Result<Duration, String> {
    let interval = text.strip_prefix("kill=").ok_or("chaos is such as kill=10s")?;
    let interval = parse_duration(interval)?;
    if interval < INTERVAL_MIN {
        return Err("a validator is killed at most once a second".to_owned());
    }
    Ok(interval)
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Kill this one and start it again.
    Kill(usize),
    /// Ask this one whether it is ready.
    Ask(usize),
}

/// The plan.
pub struct Chaos {
    interval: Duration,
    validators: usize,
    random: SplitMix,
    next: Instant,
    /// Who is not ready yet, and since when.
    victim: Option<(usize, Instant)>,
}

impl Chaos {
    /// The first kill comes one interval after `start`.
    pub fn new(interval: Duration, validators: usize, seed: u64, start: Instant) -> Self {
        let next = start + interval;
        Self { interval, validators, random: SplitMix::new(seed), next, victim: None }
    }

    /// When there is something to do.
    pub fn due(&self) -> Instant {
        self.next
    }

    /// What there is to do once it is due.
    pub fn step(&mut self, now: Instant) -> Step {
        if let Some((victim, _)) = self.victim {
            self.next = now + READY_INTERVAL;
            return Step::Ask(victim);
        }
        let victim = (self.random.next() % self.validators.max(1) as u64) as usize;
        self.victim = Some((victim, now));
        self.next = now + READY_INTERVAL;
        Step::Kill(victim)
    }

    /// The victim is ready: the next kill comes one interval after the last.
    pub fn on_ready(&mut self, now: Instant) {
        if let Some((_, killed)) = self.victim.take() {
            self.next = now.max(killed + self.interval);
        }
    }

    /// The victim, if it should have been ready long ago; told once.
    pub fn overdue(&mut self, now: Instant) -> Option<usize> {
        let (victim, _) = self.victim.filter(|(_, killed)| now > *killed + READY_DEADLINE)?;
        self.victim = None;
        // Nobody else is killed: one is down already.
        self.next = now + Duration::from_hours(24 * 365);
        Some(victim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn kill(chaos: &mut Chaos) -> usize {
        match chaos.step(chaos.due()) {
            Step::Kill(victim) => victim,
            Step::Ask(victim) => panic!("asks {victim}"),
        }
    }

    #[test]
    fn chaos_is_an_interval_of_kills() {
        assert_eq!(parse_chaos("kill=10s"), Ok(10 * SECOND));
        for refused in ["", "10s", "kill", "kill=", "kill=10", "kill=10ms", "stop=10s"] {
            assert!(parse_chaos(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn the_next_kill_waits_for_the_last_victim_and_then_for_its_interval() {
        let start = Instant::now();
        let mut chaos = Chaos::new(5 * SECOND, 4, 1, start);
        assert_eq!(chaos.due(), start + 5 * SECOND);
        let victim = kill(&mut chaos);
        for _ in 0..200 {
            let due = chaos.due();
            assert_eq!(chaos.step(due), Step::Ask(victim));
        }
        let ready = chaos.due();
        assert!(ready > start + 20 * SECOND);
        chaos.on_ready(ready);
        assert_eq!(chaos.due(), ready, "the interval has passed long ago");
        let killed = chaos.due();
        kill(&mut chaos);
        chaos.on_ready(killed + SECOND);
        assert_eq!(chaos.due(), killed + 5 * SECOND);
    }

    #[test]
    fn a_seed_chooses_the_victims_and_all_are_chosen_in_time() {
        let victims = |seed| {
            let mut chaos = Chaos::new(SECOND, 4, seed, Instant::now());
            let mut next = || {
                let victim = kill(&mut chaos);
                chaos.on_ready(chaos.due());
                victim
            };
            (0..40).map(|_| next()).collect::<Vec<_>>()
        };
        assert_eq!(victims(1), victims(1));
        assert_ne!(victims(1), victims(2));
        assert!((0..4).all(|index| victims(1).contains(&index)));
    }

    #[test]
    fn a_victim_that_never_comes_back_is_told_once_and_nobody_follows_it() {
        let start = Instant::now();
        let mut chaos = Chaos::new(SECOND, 4, 1, start);
        let victim = kill(&mut chaos);
        assert_eq!(chaos.overdue(start + 2 * SECOND), None);
        assert_eq!(chaos.overdue(start + 40 * SECOND), Some(victim));
        assert_eq!(chaos.overdue(start + 80 * SECOND), None);
        assert!(chaos.due() > start + 3600 * SECOND);
    }
}
