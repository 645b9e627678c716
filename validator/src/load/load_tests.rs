//! The command line of `load`, its summary and its verdict.

use clap::Parser;

use super::tracker::Counts;
use super::*;
use std::num::NonZeroU32;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    load: LoadArguments,
}

fn parse(text: &str) -> Result<LoadArguments, clap::Error> {
    let words = std::iter::once("load").chain(text.split_whitespace());
    Line::try_parse_from(words).map(|line| line.load)
}

fn result(counts: Counts) -> LoadResult {
    LoadResult {
        counts,
        latency: LatencyQuantiles::default(),
        duration: Duration::from_secs(2),
        errors: Vec::new(),
    }
}

#[test]
fn targets_may_follow_one_option_or_several() {
    let together = parse("--target http://a:1 http://b:2").expect("two");
    let apart = parse("--target http://a:1 --target b:2").expect("two");
    assert_eq!(together.target, apart.target);
    assert_eq!((together.transaction_bytes, together.duration), (512, Duration::from_secs(30)));
    assert!(matches!(together.rate, Rate::PerSecond(rate) if rate.get() == 1_000));
}

#[test]
fn what_cannot_be_sent_is_refused_at_once() {
    for line in [
        "",
        "--target ftp://a:1",
        "--target a:1 --rate 0",
        "--target a:1 --duration 30",
        "--target a:1 --transaction-bytes 19",
        "--target a:1 --transaction-bytes 2000000",
        "--target a:1 --transactions f --transaction-bytes 64",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn a_malformed_file_fails_with_the_code_of_usage_before_anything_is_sent() {
    let path = std::env::temp_dir().join(format!("quorum-store-bad-{}.hex", std::process::id()));
    std::fs::write(&path, "00\n0x\n").expect("a temporary file");
    let arguments = parse(&format!("--target a:1 --rate max --transactions {}", path.display()));
    let failure = run(arguments.expect("well formed")).expect_err("malformed");
    std::fs::remove_file(&path).expect("just written");
    assert!(matches!(failure, Failure::Usage(_)) && failure.to_string().contains("line 2"));
}

#[test]
fn a_short_file_ends_the_load_before_its_duration() {
    let path = std::env::temp_dir().join(format!("quorum-store-short-{}.hex", std::process::id()));
    std::fs::write(&path, "00\n01\n02\n").expect("a temporary file");
    let content = Content::Replay(Arc::new(Replay::read(&path).expect("well formed")));
    std::fs::remove_file(&path).expect("just written");
    let rate = Rate::PerSecond(NonZeroU32::new(2).expect("above zero"));
    assert_eq!(duration(Duration::from_mins(1), rate, &content), Duration::from_secs(2));
}

#[test]
fn lost_transactions_and_an_empty_load_fail_the_command() {
    let good = Counts { accepted: 5, executed: 5, ..Counts::default() };
    assert!(verdict(&result(good)).is_ok());
    let lost = Counts { unresolved: 1, ..good };
    assert!(verdict(&result(lost)).is_err_and(|failure| failure.to_string().contains("outcome")));
    let mut nothing = result(Counts::default());
    assert!(verdict(&nothing).is_err());
    let target = Target::parse("a:1").expect("a target");
    nothing.errors.push((target, "cannot connect".to_owned()));
    let failure = verdict(&nothing).expect_err("nothing accepted");
    assert!(failure.to_string().contains("http://a:1: cannot connect"), "{failure}");
}

#[test]
fn the_summary_has_the_same_numbers_in_both_forms() {
    let counts = Counts {
        sent: 11,
        sent_in_window: 10,
        accepted: 9,
        executed: 8,
        executed_in_window: 6,
        unresolved: 1,
        ..Counts::default()
    };
    let summary = Summary::new(&result(counts));
    let json: serde_json::Value =
        serde_json::from_str(&summary.json().expect("a document")).expect("JSON");
    assert_eq!((&json["offered_tps"], &json["executed_tps"]), (&5.0.into(), &3.0.into()));
    assert_eq!((&json["accepted"], &json["lost"]), (&9.into(), &1.into()));
    assert_eq!(json["refused"]["back_pressure"], 0);
    let text = summary.text(&result(counts));
    assert!(text.contains("11 sent") && text.contains("lost 1"), "{text}");
}
