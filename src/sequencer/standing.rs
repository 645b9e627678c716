//! `Standing`: who sent signatures that do not verify, and until when it counts.
//!
//! A demoted signer is not sent batches of ours again while the others make a quorum, and ingress
//! looks at what it signs within a budget. The list forgives: demotion ends by itself, and whoever
//! behaves for as long again is as good as new; whoever offends before that is demoted for twice as
//! long. So a validator with a passing fault is back soon, and a liar costs little.
//!
//! It decides nothing about signatures that verify: those count, whoever sent them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::Author;

/// How long the first demotion lasts.
const DEMOTION: Duration = Duration::from_secs(10);
/// Demotions double up to this many times: 320 s.
const DOUBLINGS_MAX: u32 = 5;

#[derive(Debug)]
struct Demotion {
    /// When it is forgiven.
    until: Duration,
    doublings: u32,
}

impl Demotion {
    fn length(&self) -> Duration {
        DEMOTION * 2_u32.pow(self.doublings)
    }

    /// When nothing is held against it any more.
    fn forgotten(&self) -> Duration {
        self.until + self.length()
    }
}

/// See the module docs.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    demoted: BTreeMap<Author, Demotion>,
}

impl Standing {
    /// A signature of this one does not verify. True if it was in good standing until now.
    pub fn on_bad_signature(&mut self, author: Author, now: Duration) -> bool {
        self.demoted.retain(|_, demotion| demotion.forgotten() > now);
        let Some(demotion) = self.demoted.get_mut(&author) else {
            self.demoted.insert(author, Demotion { until: now + DEMOTION, doublings: 0 });
            return true;
        };
        let was_forgiven = demotion.until <= now;
        if was_forgiven {
            demotion.doublings = (demotion.doublings + 1).min(DOUBLINGS_MAX);
        }
        demotion.until = now + demotion.length();
        was_forgiven
    }

    /// True while its bad signatures count.
    pub fn is_demoted(&self, author: &Author, now: Duration) -> bool {
        self.demoted.get(author).is_some_and(|demotion| demotion.until > now)
    }

    /// Who is demoted now.
    pub fn demoted(&self, now: Duration) -> impl Iterator<Item = Author> + '_ {
        let is = move |(_, demotion): &(&Author, &Demotion)| demotion.until > now;
        self.demoted.iter().filter(is).map(|(author, _)| *author)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIAR: Author = Author([1; 32]);
    const OTHER: Author = Author([2; 32]);

    #[test]
    fn a_demotion_ends_by_itself_and_doubles_only_for_who_offends_again() {
        let mut standing = Standing::default();
        let second = Duration::from_secs;
        assert!(standing.on_bad_signature(LIAR, second(0)));
        // A burst is one offence.
        (0..1000).for_each(|_| assert!(!standing.on_bad_signature(LIAR, second(0))));
        assert!(standing.is_demoted(&LIAR, second(9)) && !standing.is_demoted(&OTHER, second(9)));
        assert!(!standing.is_demoted(&LIAR, second(10)), "forgiven");
        // Again, before it is forgotten: for twice as long.
        assert!(standing.on_bad_signature(LIAR, second(15)));
        assert!(standing.is_demoted(&LIAR, second(34)) && !standing.is_demoted(&LIAR, second(35)));
        // Forgotten, after as long again: like the first time.
        assert!(standing.on_bad_signature(LIAR, second(55)));
        assert!(standing.is_demoted(&LIAR, second(64)) && !standing.is_demoted(&LIAR, second(65)));
        assert_eq!(standing.demoted(second(64)).collect::<Vec<_>>(), [LIAR]);
        let mut now = second(65);
        for _ in 0..20 {
            assert!(!standing.is_demoted(&LIAR, now));
            standing.on_bad_signature(LIAR, now);
            while standing.is_demoted(&LIAR, now) {
                now += second(1);
            }
        }
        standing.on_bad_signature(LIAR, now);
        assert!(!standing.is_demoted(&LIAR, now + second(320)), "never for longer");
    }
}
