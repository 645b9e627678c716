//! The engine against validators that live in this process.

use super::super::fake::{Behaviour, FakeValidator, Fate};
use super::*;
use std::num::NonZeroU32;

async fn fakes(behaviours: Vec<Behaviour>) -> Vec<FakeValidator> {
    let mut started = Vec::new();
    for behaviour in behaviours {
        started.push(FakeValidator::start(behaviour).await);
    }
    started
}

fn plan(fakes: &[FakeValidator], rate: u32) -> LoadPlan {
    LoadPlan {
        targets: fakes.iter().map(|fake| fake.target.clone()).collect(),
        rate: Rate::PerSecond(NonZeroU32::new(rate).expect("above zero")),
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(300),
        content: Content::Random { transaction_bytes: 64, seed: 1 },
        disks_may_be_lost: false,
    }
}

async fn finished(plan: LoadPlan, patience: Duration) -> LoadResult {
    let mut load = start(plan);
    let _ = timeout(patience, load.settled()).await;
    load.finish().await
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn everything_that_is_due_is_sent_once_and_followed_to_its_execution() {
    let fakes = fakes(vec![Behaviour::default(); 3]).await;
    let result = finished(plan(&fakes, 5_000), PATIENCE).await;
    let counts = result.counts;
    assert_eq!(counts.sent + counts.unsent, 1_500);
    assert_eq!((counts.sent, counts.accepted, counts.executed), (1_500, 1_500, 1_500));
    assert_eq!((counts.unresolved, counts.repeated, counts.unanswered), (0, 0, 0));
    assert!(result.errors.is_empty(), "{:?}", result.errors);
    for fake in &fakes {
        fake.books(|books| {
            assert_eq!((books.executed.len(), books.seen), (500, 500));
            assert!(books.requests.iter().all(|count| *count <= 500));
            assert!(books.connections < books.requests.len(), "connections are kept");
            assert!(books.requests.len() > 3, "spread over time: {:?}", books.requests);
        });
    }
    for found in [result.latency.accepted, result.latency.certified, result.latency.executed] {
        assert!(found.is_some_and(|found| (found.max - 1.5).abs() < f64::EPSILON));
    }
}

#[tokio::test]
async fn refusals_are_counted_and_not_sent_again() {
    let status = |number| if number % 4 == 0 { 429 } else { 202 };
    let fakes = fakes(vec![Behaviour { status, ..Behaviour::default() }]).await;
    let counts = finished(plan(&fakes, 4_000), PATIENCE).await.counts;
    // A refusal is a wish for a pause, in which what is due waits, or stays unsent at the end.
    assert_eq!(counts.sent + counts.unsent, 1_200);
    assert!(counts.sent > 200, "{counts:?}");
    let refused = counts.sent.div_ceil(4);
    assert_eq!((counts.refused.back_pressure, counts.refused.total()), (refused, refused));
    assert_eq!(counts.accepted, counts.sent - refused);
    assert_eq!(fakes[0].books(|books| books.seen), counts.sent);
}

#[tokio::test]
async fn the_share_of_a_target_that_takes_nothing_goes_to_the_others() {
    let out = Behaviour { status: |_| 503, ..Behaviour::default() };
    let fakes = fakes(vec![out, Behaviour::default(), Behaviour::default()]).await;
    let counts = finished(plan(&fakes, 5_000), PATIENCE).await.counts;
    assert!(counts.refused.not_serving < 150, "{counts:?}");
    assert!(counts.executed > 1_200, "{counts:?}");
    assert!((1_400..=1_500).contains(&(counts.sent + counts.unsent)), "{counts:?}");
}

#[tokio::test]
async fn accepted_and_forgotten_is_lost_while_expired_is_an_outcome() {
    let behaviour = |fate| Behaviour { fate, ..Behaviour::default() };
    let fakes = fakes(vec![behaviour(Fate::Forget), behaviour(Fate::Expire)]).await;
    let counts = finished(plan(&fakes, 200), Duration::from_secs(1)).await.counts;
    assert_eq!((counts.accepted, counts.unresolved, counts.expired), (60, 30, 30));
}

#[tokio::test]
async fn a_second_execution_is_reported() {
    let behaviour = Behaviour { fate: Fate::ExecuteTwice, ..Behaviour::default() };
    let fakes = fakes(vec![behaviour]).await;
    let mut load = start(plan(&fakes, 200));
    let repeated = async {
        load.settled().await;
        while load.snapshot().counts.repeated < 60 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, repeated).await.expect("all are reported");
    assert_eq!(load.finish().await.counts.executed, 60);
}

#[tokio::test]
async fn a_broken_stream_continues_where_it_ended() {
    let fakes = fakes(vec![Behaviour { stream_lines: 4, ..Behaviour::default() }]).await;
    let counts = finished(plan(&fakes, 300), PATIENCE).await.counts;
    assert_eq!((counts.executed, counts.unresolved, counts.repeated), (90, 0, 0));
    let streams = fakes[0].books(|books| books.streams.clone());
    assert!(streams.len() > 1 && streams.iter().zip(&streams[1..]).all(|(a, b)| *b == a + 4));
}

#[tokio::test]
async fn a_gap_from_before_the_load_is_not_held_against_the_target() {
    let first_line = Some(r#"{"seq":0,"state":"gap","lost":99}"#.to_owned());
    let fakes = fakes(vec![Behaviour { first_line, ..Behaviour::default() }]).await;
    let counts = finished(plan(&fakes, 200), PATIENCE).await.counts;
    assert_eq!((counts.executed, counts.outcomes_lost), (60, 0));
}

#[tokio::test]
async fn an_unreadable_line_is_counted_and_the_rest_is_read() {
    let first_line = Some("{\"seq\":".to_owned());
    let fakes = fakes(vec![Behaviour { first_line, ..Behaviour::default() }]).await;
    let result = finished(plan(&fakes, 200), PATIENCE).await;
    assert_eq!((result.counts.executed, result.counts.outcomes_malformed), (60, 1));
    assert_eq!(result.errors.len(), 1);
}

#[tokio::test]
async fn a_target_that_refuses_connections_does_not_hold_the_others_back() {
    let fakes = fakes(vec![Behaviour::default()]).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = closed.local_addr().expect("bound");
    drop(closed);
    let mut plan = plan(&fakes, 400);
    plan.targets.push(Target::parse(&address.to_string()).expect("an address"));
    let load = start(plan);
    let executed = async {
        while load.snapshot().counts.executed < 60 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, executed).await.expect("the live target executes its half");
    load.stop_sending();
    let result = load.finish().await;
    assert_eq!(result.counts.accepted, 60);
    assert!(result.errors.iter().any(|(_, error)| error.contains("cannot connect")));
}

#[tokio::test]
async fn an_answer_of_the_wrong_length_counts_as_no_answer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = Target::parse(&listener.local_addr().expect("bound").to_string());
    let router = axum::Router::new()
        .route("/transactions/batch", axum::routing::post(|| async { vec![202_u8, 0, 202] }));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let plan = LoadPlan { targets: vec![target.expect("an address")], ..plan(&[], 100) };
    let result = finished(plan, PATIENCE).await;
    server.abort();
    assert_eq!((result.counts.unanswered, result.counts.accepted), (30, 0));
}

#[tokio::test]
async fn a_whole_request_that_is_refused_refuses_each_of_its_transactions() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = Target::parse(&listener.local_addr().expect("bound").to_string());
    let busy = || async { axum::http::StatusCode::SERVICE_UNAVAILABLE };
    let router = axum::Router::new().route("/transactions/batch", axum::routing::post(busy));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let plan = LoadPlan { targets: vec![target.expect("an address")], ..plan(&[], 100) };
    let result = finished(plan, PATIENCE).await;
    server.abort();
    let counts = result.counts;
    assert_eq!((counts.refused.not_serving, counts.sent + counts.unsent), (counts.sent, 30));
    assert!(counts.sent > 0);
}

/// Passes connections on to `target`, but closes the first that carries a batch.
async fn breaks_the_first_batch(listener: tokio::net::TcpListener, target: Target) {
    let address = target.to_string().replace("http://", "");
    let mut passed = JoinSet::new();
    let mut broken = false;
    while let Ok((mut client, _)) = listener.accept().await {
        let mut first = [0; 4];
        while client.peek(&mut first).await.is_ok_and(|bytes| (1..4).contains(&bytes)) {}
        if &first == b"POST" && !broken {
            broken = true;
            continue;
        }
        let mut server = tokio::net::TcpStream::connect(&address).await.expect("it listens");
        passed.spawn(async move {
            // Ends when either side closes; the tests look at what came through.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

#[tokio::test]
async fn a_batch_whose_connection_broke_is_sent_again_as_the_same_transactions() {
    let fakes = fakes(vec![Behaviour::default()]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = Target::parse(&listener.local_addr().expect("bound").to_string());
    let proxy = tokio::spawn(breaks_the_first_batch(listener, fakes[0].target.clone()));
    let plan = LoadPlan { targets: vec![target.expect("an address")], ..plan(&[], 500) };
    let counts = finished(plan, PATIENCE).await.counts;
    proxy.abort();
    assert!(counts.resent > 0 && counts.resent < 150, "{counts:?}");
    assert_eq!((counts.sent, counts.accepted, counts.executed), (150, 150, 150));
    fakes[0].books(|books| {
        assert_eq!((books.executed.len(), books.seen), (150, 150));
        assert!(books.executed.values().all(|times| *times == 1));
    });
}

#[tokio::test]
async fn a_target_that_forgot_what_it_accepted_in_a_restart_is_asked() {
    let fakes = fakes(vec![Behaviour { fate: Fate::TellIfAsked, ..Behaviour::default() }]).await;
    let mut load = start(plan(&fakes, 200));
    load.sent().await;
    let accepted = async {
        while load.snapshot().counts.unresolved < 60 || fakes[0].books(|b| b.streams.is_empty()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, accepted).await.expect("all are accepted");
    fakes[0].restart();
    timeout(PATIENCE, load.settled()).await.expect("all are found out");
    let counts = load.finish().await.counts;
    assert_eq!((counts.executed, counts.asked, counts.unresolved), (60, 60, 0));
    fakes[0].books(|books| assert_eq!(books.streams.last(), Some(&0), "{:?}", books.streams));
}

#[tokio::test]
async fn the_largest_rate_is_that_of_the_answers() {
    let fakes = fakes(vec![Behaviour::default(); 2]).await;
    let plan = LoadPlan { rate: Rate::Max, ..plan(&fakes, 1) };
    let counts = finished(plan, PATIENCE).await.counts;
    assert!(counts.sent > 16_000, "more than one round of what may be in flight: {counts:?}");
    assert_eq!((counts.accepted, counts.executed, counts.unsent), (counts.sent, counts.sent, 0));
}

#[tokio::test]
async fn at_the_largest_rate_a_full_target_is_given_its_pause_and_refusals_are_typed() {
    let fakes = fakes(vec![Behaviour { status: |_| 429, ..Behaviour::default() }]).await;
    let plan = LoadPlan { rate: Rate::Max, ..plan(&fakes, 1) };
    let counts = finished(plan, PATIENCE).await.counts;
    // One round of all that may be in flight, and one request after the only pause that fits.
    assert!((8_000..=9_000).contains(&counts.sent), "{counts:?}");
    assert_eq!((counts.refused.back_pressure, counts.accepted), (counts.sent, 0));
}
