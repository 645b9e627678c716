//! The command line of `testnet`.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    testnet: TestnetArguments,
}

fn parse(text: &str) -> Result<TestnetArguments, clap::Error> {
    let words = std::iter::once("testnet").chain(text.split_whitespace());
    Line::try_parse_from(words).map(|line| line.testnet)
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let arguments = parse("").expect("all have defaults");
    assert_eq!((arguments.validators, arguments.transaction_bytes), (4, 512));
    assert_eq!(arguments.duration, Duration::from_secs(30));
    assert!(supported(&arguments).is_ok());
    assert!(matches!(arguments.rate, Rate::PerSecond(rate) if rate.get() == 20_000));
}

#[test]
fn every_option_of_a_whole_run_is_taken() {
    let arguments = parse(
        "--validators 7 --duration 1m --rate 100 --transaction-bytes 64 --dir d --report r --keep \
         --seed 9 --json --optimistic on --chaos kill=10s",
    );
    let arguments = arguments.expect("well formed");
    assert_eq!((arguments.validators, arguments.seed), (7, Some(9)));
    assert_eq!(arguments.optimistic, Switch::On);
    assert!(arguments.keep && arguments.json && supported(&arguments).is_ok());
    let epochs = |text: &str| supported(&parse(text).expect("well formed")).is_ok();
    assert!(epochs("--epochs 4 --duration 8s") && epochs("--epochs 1 --validators 1"));
    assert!(!epochs("--epochs 4 --duration 7s") && !epochs("--epochs 2 --validators 1"));
}

#[test]
fn something_is_destroyed_only_where_the_others_can_go_on() {
    let taken = |text: &str| supported(&parse(text).expect("well formed")).is_ok();
    assert!(taken("--wipe 3") && taken("--lose 5") && taken("--lose 1 --validators 1"));
    for refused in [
        "--wipe 4",
        "--wipe 0 --validators 3",
        "--wipe 0 --lose 1",
        "--lose 1 --chaos kill=5s",
        "--wipe 0 --epochs 2",
        "--lose 1 --duration 9s",
    ] {
        assert!(!taken(refused), "{refused}");
    }
    assert!(parse("--lose 0").is_err() && parse("--lose 33").is_err());
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "--validators 0",
        "--validators 65",
        "--rate -1",
        "--duration 0s",
        "--seed x",
        "--chaos 5s",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}
