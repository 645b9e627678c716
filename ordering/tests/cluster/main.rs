//! Engines in one process, on loopback, ordering digests that stand for nothing.
//!
//! Each test has a runtime, a directory and ports of its own.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use quorum_store_ordering::{
    CertificateError, ConfigError, OrderingError, Runtime, RuntimeConfig, run, verify_finalization,
};
use std::{future::Future, sync::Arc, time::Duration};
use support::{CHAIN_ID, Cluster, Mode, Scratch, configs, in_time};

/// Runs a test in a runtime of its own.
fn with_runtime<F, Fut>(name: &str, test: F)
where
    F: FnOnce(Runtime) -> Fut,
    Fut: Future<Output = ()>,
{
    let scratch = Scratch::new(name);
    let config = RuntimeConfig { directory: scratch.path().into(), worker_threads: 2 };
    run(config, test).unwrap();
}

#[test]
fn four_engines_agree_on_one_chain() {
    with_runtime("agree", |runtime| async move {
        let mut cluster = Cluster::started(&runtime, 4).await;
        cluster.all_reach(10).await;
        cluster.assert_one_chain();
        for validator in cluster.validators() {
            let reports = validator.reports();
            assert!(reports.windows(2).all(|pair| pair[0].view < pair[1].view));
        }

        for index in 0..4 {
            let mut others = cluster.keys();
            others.remove(index);
            others.sort_unstable();
            cluster.connected(index, &others).await;
        }
        assert!(runtime.metrics().contains("finalization_latency"));
        cluster.stop().await;
    });
}

#[test]
fn a_certificate_convinces_whoever_knows_the_committee_and_nobody_else() {
    with_runtime("certificate", |runtime| async move {
        let cluster = Cluster::started(&runtime, 4).await;
        let keys = cluster.keys();
        let finalized = cluster.validator(0).newest();
        assert!(finalized.signers.len() >= 3);
        assert!(finalized.signers.is_sorted());
        assert!(finalized.signers.iter().all(|signer| keys.contains(signer)));

        let certificate = &finalized.certificate;
        let check = |chain_id, epoch, keys: &[[u8; 32]], certificate: &[u8]| {
            verify_finalization(&chain_id, epoch, keys, &certificate.to_vec().into())
        };
        assert_eq!(check(CHAIN_ID, 0, &keys, certificate), Ok(finalized.clone()));
        assert_eq!(check([9; 32], 0, &keys, certificate), Err(CertificateError::Invalid));
        let other = Err(CertificateError::Epoch { expected: 1, found: 0 });
        assert_eq!(check(CHAIN_ID, 1, &keys, certificate), other);
        assert_eq!(check(CHAIN_ID, 0, &[], certificate), Err(CertificateError::Committee));
        let fewer = check(CHAIN_ID, 0, &keys[1..], certificate);
        assert_eq!(fewer, Err(CertificateError::Malformed));

        // Whichever byte is changed, it proves nothing any more.
        for index in 0..certificate.len() {
            let mut forged = certificate.to_vec();
            forged[index] ^= 1;
            assert!(check(CHAIN_ID, 0, &keys, &forged).is_err(), "byte {index}");
            let torn = check(CHAIN_ID, 0, &keys, &certificate[..index]);
            assert_eq!(torn, Err(CertificateError::Malformed));
        }
        cluster.stop().await;
    });
}

#[test]
fn an_engine_that_was_stopped_and_started_again_continues() {
    with_runtime("restart", |runtime| async move {
        let mut cluster = Cluster::started(&runtime, 4).await;
        cluster.all_reach(4).await;

        cluster.stop_one(3).await;
        let absent = cluster.validator(3).clone();
        let (height, reports) = (absent.height(), absent.reports().len());
        cluster.validator(0).reach(cluster.height() + 4).await;
        assert_eq!(absent.reports().len(), reports, "nothing is reported after stop");

        cluster.start_one(&runtime, 3);
        cluster.all_reach(cluster.height() + 4).await;
        cluster.assert_one_chain();
        assert!(absent.height() > height);
        let again = absent.reports()[reports].clone();
        assert!(
            absent.reports()[..reports].iter().any(|report| report.view == again.view),
            "the journal is reported first"
        );
        cluster.stop().await;
    });
}

#[test]
fn a_cluster_that_was_stopped_as_a_whole_resumes() {
    with_runtime("resume", |runtime| async move {
        let mut cluster = Cluster::started(&runtime, 4).await;
        cluster.all_reach(4).await;
        // Dropped and not awaited: the next life finds addresses and journals still held.
        cluster.drop_all();
        let (height, view) = (cluster.height(), cluster.validator(0).newest().view);
        for index in 0..4 {
            cluster.start_one(&runtime, index);
        }
        cluster.all_reach(height + 4).await;
        cluster.assert_one_chain();
        assert!(cluster.validator(0).newest().view > view);
        cluster.stop().await;
    });
}

#[test]
fn a_validator_that_lost_its_journal_starts_from_a_certificate() {
    with_runtime("floor", |runtime| async move {
        let mut cluster = Cluster::started(&runtime, 4).await;
        cluster.all_reach(4).await;
        cluster.stop_one(2).await;
        cluster.validator(2).forget();
        let floor = cluster.validator(0).newest();
        let config = cluster.config_mut(2);
        config.partition_prefix = String::from("replacement");
        config.floor = Some(floor.certificate.clone());

        cluster.start_one(&runtime, 2);
        cluster.all_reach(cluster.height() + 4).await;
        cluster.assert_one_chain();
        assert_eq!(cluster.validator(2).reports()[0].view, floor.view);
        cluster.stop().await;
    });
}

#[test]
fn stopping_drops_every_future_and_lets_go_of_the_application() {
    with_runtime("stop", |runtime| async move {
        let cluster = Cluster::starting(&runtime, &[Mode::NeverVerifies; 4]);
        let validators = cluster.validators().to_vec();
        let asked = validators.iter().map(|validator| {
            Box::pin(validator.until("a question", |validator| validator.futures() > 0))
        });
        futures::future::select_all(asked).await;
        cluster.stop().await;
        for validator in validators {
            assert_eq!(validator.futures(), 0);
            assert_eq!(Arc::strong_count(&validator), 1);
        }
    });
}

#[test]
fn a_panic_in_a_task_of_the_application_stops_its_engine_and_no_other() {
    assert_panic_stops(Mode::PanicsInVerify, "verify panics on purpose");
}

#[test]
fn a_panic_in_a_call_of_the_application_stops_its_engine_and_no_other() {
    assert_panic_stops(Mode::PanicsInFinalized, "finalized panics on purpose");
}

fn assert_panic_stops(mode: Mode, expected: &str) {
    with_runtime(expected.split(' ').next().unwrap(), |runtime| async move {
        let modes = [Mode::Honest, Mode::Honest, Mode::Honest, mode];
        let mut cluster = Cluster::starting(&runtime, &modes);
        let cause = in_time("failure", cluster.engine(3).failed()).await;
        let OrderingError::ApplicationPanicked { message } = cause else {
            panic!("{cause}");
        };
        assert_eq!(message, expected);
        let again = cluster.engine(3).failed().await;
        assert!(matches!(again, OrderingError::Stopped), "{again}");
        cluster.validator(0).reach(cluster.height() + 4).await;
        cluster.stop().await;
    });
}

#[test]
fn an_address_in_use_is_told() {
    with_runtime("address", |runtime| async move {
        let cluster = Cluster::started(&runtime, 1).await;
        let mut config = cluster.config(0).clone();
        config.partition_prefix = String::from("other");
        let address = config.listen;
        let application = cluster.validator(0).clone();
        let mut second = runtime.start(config, application).unwrap();
        let cause = in_time("failure", second.failed()).await;
        let OrderingError::Listen { address: told, .. } = cause else {
            panic!("{cause}");
        };
        assert_eq!(told, address);
        cluster.stop().await;
    });
}

#[test]
fn a_journal_in_use_is_told() {
    with_runtime("journal", |runtime| async move {
        let cluster = Cluster::started(&runtime, 1).await;
        let mut config = cluster.config(0).clone();
        config.listen = configs(1).swap_remove(0).listen;
        let application = cluster.validator(0).clone();
        let mut second = runtime.start(config, application).unwrap();
        let cause = in_time("failure", second.failed()).await;
        assert!(matches!(cause, OrderingError::Journal { .. }), "{cause}");
        cluster.validator(0).reach(cluster.height() + 4).await;
        cluster.stop().await;
    });
}

#[test]
fn a_lone_participant_orders_by_itself() {
    with_runtime("lone", |runtime| async move {
        let cluster = Cluster::started(&runtime, 1).await;
        cluster.all_reach(4).await;
        cluster.stop().await;
    });
}

#[test]
fn validators_of_different_chains_do_not_connect() {
    with_runtime("chains", |runtime| async move {
        let mut cluster = Cluster::started(&runtime, 4).await;
        cluster.stop_one(1).await;
        let config = cluster.config_mut(1);
        config.chain_id = [9; 32];
        config.partition_prefix = String::from("other-chain");
        cluster.start_one(&runtime, 1);
        cluster.validator(0).reach(cluster.height() + 8).await;
        assert_eq!(cluster.engine(1).connected(), Vec::<[u8; 32]>::new());
        let mut others = cluster.keys();
        others.drain(..2);
        others.sort_unstable();
        cluster.connected(0, &others).await;
        cluster.stop().await;
    });
}

#[test]
fn a_configuration_that_cannot_run_is_refused() {
    let good = configs(4).swap_remove(0);
    assert_eq!(good.validate(), Ok(()));
    assert!(!format!("{good:?}").contains("seed"));

    let mut config = good.clone();
    config.participants.clear();
    assert_eq!(config.validate(), Err(ConfigError::NoParticipants));

    let mut config = good.clone();
    config.participants.push(config.participants[1]);
    let key = config.participants[1].key;
    assert_eq!(config.validate(), Err(ConfigError::DuplicateParticipant { key }));

    let mut config = good.clone();
    let key = config.participants.remove(0).key;
    assert_eq!(config.validate(), Err(ConfigError::NotParticipant { key }));

    let mut config = good.clone();
    config.leader_timeout = Duration::ZERO;
    assert_eq!(config.validate(), Err(ConfigError::Zero { name: "leader_timeout" }));

    let mut config = good.clone();
    config.certification_timeout = config.leader_timeout;
    let (longer, shorter) = ("certification_timeout", "leader_timeout");
    assert_eq!(config.validate(), Err(ConfigError::Order { longer, shorter }));

    let mut config = good.clone();
    config.skip_timeout = Some(config.certification_timeout);
    let (longer, shorter) = ("skip_timeout", "certification_timeout");
    assert_eq!(config.validate(), Err(ConfigError::Order { longer, shorter }));

    let mut config = good.clone();
    config.partition_prefix = String::from("../up");
    let prefix = config.partition_prefix.clone();
    assert_eq!(config.validate(), Err(ConfigError::PartitionPrefix { prefix }));

    let mut config = good;
    config.floor = Some(b"nonsense".as_slice().into());
    let floor = ConfigError::Floor(CertificateError::Malformed);
    assert_eq!(config.validate(), Err(floor));
}

#[test]
fn run_returns_what_the_root_returns_and_refuses_to_nest() {
    let scratch = Scratch::new("nest");
    let config = RuntimeConfig { directory: scratch.path().into(), worker_threads: 1 };
    let inner = config.clone();
    let local = std::rc::Rc::new(7); // neither Send nor 'static is asked for
    let borrowed = &local;
    let (value, nested) = run(config, |_| async move {
        let value = tokio::spawn(async { 35 }).await.unwrap();
        (value + **borrowed, run(inner, |_| async {}))
    })
    .unwrap();
    assert_eq!(value, 42);
    assert!(matches!(nested, Err(OrderingError::NestedRuntime)));
}

#[test]
fn a_directory_that_cannot_be_made_is_told() {
    let scratch = Scratch::new("file");
    std::fs::write(scratch.path(), b"in the way").unwrap();
    let directory = scratch.path().join("below");
    let result = run(RuntimeConfig { directory, worker_threads: 1 }, |_| async {});
    assert!(matches!(result, Err(OrderingError::Directory { .. })));
    std::fs::remove_file(scratch.path()).unwrap();
}

#[test]
#[should_panic(expected = "a panic of the root")]
fn a_panic_of_the_root_is_passed_on() {
    let scratch = Scratch::new("root");
    let config = RuntimeConfig { directory: scratch.path().into(), worker_threads: 1 };
    let _ = run(config, |_| async { panic!("a panic of the root") });
}
