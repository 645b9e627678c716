//! Whose signatures ingress looks at: all, but those of a demoted signer only within a budget.
//!
//! A signature costs as much to refuse as to accept. Nothing is lost for good by not looking: whoever
//! has not signed is asked again.

use std::collections::HashMap;
use std::time::Duration;

use crate::sequencer::Standing;
use crate::types::Author;

/// Signatures of a demoted signer that are looked at in one second.
const LOOKED_AT_PER_SECOND: u32 = 100;

/// See the module docs.
#[derive(Default)]
pub(super) struct Signers {
    standing: Standing,
    /// The second in which a demoted signer's signatures are counted, and how many were looked at.
    looked_at: HashMap<Author, (Duration, u32)>,
}

impl Signers {
    /// A signature of this one does not verify.
    pub fn on_bad_signature(&mut self, signer: Author, now: Duration) {
        self.standing.on_bad_signature(signer, now);
    }

    /// True if one more signature of it may be looked at.
    pub fn may_look(&mut self, signer: &Author, now: Duration) -> bool {
        if !self.standing.is_demoted(signer, now) {
            self.looked_at.remove(signer);
            return true;
        }
        let (since, count) = self.looked_at.entry(*signer).or_insert((now, 0));
        if now.saturating_sub(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= LOOKED_AT_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_demoted_signer_says_is_looked_at_within_a_budget() {
        let (liar, other) = (Author([1; 32]), Author([2; 32]));
        let mut signers = Signers::default();
        let second = Duration::from_secs;
        let looks = |signers: &mut Signers, author: &Author, now| {
            (0..1000).filter(|_| signers.may_look(author, now)).count()
        };
        assert_eq!(looks(&mut signers, &liar, second(3)), 1000);
        signers.on_bad_signature(liar, second(3));
        assert_eq!(looks(&mut signers, &liar, second(3)), 100);
        assert_eq!(looks(&mut signers, &liar, second(4)), 100);
        assert_eq!(looks(&mut signers, &other, second(4)), 1000);
        assert_eq!(looks(&mut signers, &liar, second(13)), 1000, "forgiven");
    }
}
