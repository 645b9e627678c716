//! Each liar by name, beside a crashed honest validator.

use std::time::Duration;

use quorum_store::testkit::{self, Lie, Options};

fn survive(lie: Lie, validators: usize) {
    for seed in 0..3 {
        let mut options = Options::calm(seed, validators);
        options.duration = Duration::from_secs(80);
        options.quiet = Duration::from_secs(45);
        options.fault_interval = Duration::from_secs(6);
        // Some batches have to be fetched, from liars too.
        options.lost_per_mille = 50;
        options.parameters.batch_lifetime_micros = 8_000_000;
        options.liars = vec![lie; (validators - 1) / 3];
        // The first with proofs only, the second with the shortest trust, the third as by default.
        options.config.optimistic = seed > 0;
        options.config.optimistic_age_min = Duration::from_millis(50 * (seed % 2));
        let outcome = testkit::simulate(&options)
            .unwrap_or_else(|failure| panic!("{lie:?}, seed {seed}: {failure:#?}"));
        assert!(outcome.counts.contains_key(lie.name()), "{lie:?} never lied: {outcome:#?}");
        assert!(outcome.executed > 50, "{outcome:#?}");
        let demoted = outcome.counts.contains_key("signer demoted");
        assert_eq!(demoted, matches!(lie, Lie::OtherDomain | Lie::TornVotes), "{outcome:#?}");
    }
}

macro_rules! liars {
    ($($name:ident: $lie:ident,)*) => {$(
        #[test]
        fn $name() {
            survive(Lie::$lie, 4);
        }
    )*};
}

liars! {
    an_equivocating_author: Equivocate,
    a_withholding_author: Withhold,
    an_author_of_wrong_digests: WrongDigest,
    a_replayer: Replay,
    a_forger_of_proofs: ForgeProofs,
    a_signer_of_another_domain: OtherDomain,
    a_signer_of_nonsense: TornVotes,
    a_spammer: Spam,
    a_silent_voter: Silent,
    a_fetch_liar: FetchLiar,
    a_quota_hog: QuotaHog,
    a_leader_of_invalid_payloads: BadLeader,
    a_false_granter: BadGranter,
    a_liar_about_absences: Absent,
    an_author_with_one_copy: OneCopy,
    a_conjurer_of_batches: Conjure,
}

#[test]
fn two_liars_of_seven() {
    survive(Lie::Equivocate, 7);
    survive(Lie::QuotaHog, 7);
}
