//! What operators see: the metrics of a node that took part in a block, the list of them, and the
//! dashboard and alerts that are made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prometheus::Registry;
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::types::CommitIndex;

use crate::cluster::*;

/// A line of `dashboards/metrics.txt`.
struct Listed {
    name: String,
    kind: String,
    unit: String,
    help: String,
    /// Of the system that this replaces, the metrics that are the closest.
    replaces: BTreeSet<String>,
}

fn dashboards(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(file);
    std::fs::read_to_string(path).unwrap()
}

fn listed() -> Vec<Listed> {
    let text = dashboards("metrics.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(fields.len(), 5, "name | type | unit | help | replaces: {line}");
        let [name, kind, unit, help] = [0, 1, 2, 3].map(|field| fields[field].to_owned());
        // Remarks are in parentheses.
        let names = fields[4].split(['(', ')']).step_by(2).flat_map(|part| part.split(','));
        let replaces = names.map(str::trim).filter(|name| !name.is_empty());
        Listed { name, kind, unit, help, replaces: replaces.map(str::to_owned).collect() }
    };
    lines.map(parse).collect()
}

/// Names as they are used in queries; the suffixes of histograms are taken off.
fn used(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = text;
    while let Some(start) = rest.find("quorum_store_") {
        rest = &rest[start..];
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        names.insert(rest[..end].to_owned());
        rest = &rest[end..];
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_shows_exactly_the_listed_metrics() {
    let genesis = genesis(8);
    let network = MemoryNetwork::new();
    let registry = Registry::new();
    let mut nodes = vec![node_with(0, &genesis, &network, memory(0, &genesis), &registry).await];
    for index in 1..4 {
        nodes.push(node(index, &genesis, &network, memory(index, &genesis)).await);
    }
    certify(&nodes[0], "one").await;
    until(|| *nodes[0].proposable().borrow() == 1).await;
    let _ = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    // Subscribers have series once somebody subscribes.
    let mut executor = nodes[0].subscribe("executor", CommitIndex(1)).await.unwrap();
    let delivery = executor.next().await.unwrap();
    executor.acknowledge(delivery.last()).await.unwrap();
    let gathered = || {
        let families = registry.gather();
        let one = |family: &prometheus::proto::MetricFamily| {
            let kind = format!("{:?}", family.get_field_type()).to_lowercase();
            (family.name().to_owned(), (kind, family.help().to_owned()))
        };
        families.iter().map(one).collect::<BTreeMap<_, _>>()
    };
    until(|| gathered().contains_key("quorum_store_subscriber_lag")).await;

    let own = |listed: &Listed| !listed.name.starts_with("quorum_store_validator_");
    let expected: BTreeMap<_, _> =
        listed().into_iter().filter(own).map(|l| (l.name, (l.kind, l.help))).collect();
    let found = gathered();
    let line = |(name, (kind, help)): (&String, &(String, String))| {
        format!("{name} | {kind} | | {help} |")
    };
    let missing = found.iter().filter(|(name, is)| expected.get(*name) != Some(is)).map(line);
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "not listed so:\n{}", missing.join("\n"));
    let gone: Vec<_> = expected.keys().filter(|name| !found.contains_key(*name)).collect();
    assert!(gone.is_empty(), "listed and not there: {gone:?}");

    let value = |name: &str| {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let of = |metric: &prometheus::proto::Metric| {
            metric.get_counter().get_value()
                + metric.get_gauge().get_value()
                + metric.get_histogram().get_sample_count() as f64
        };
        family.get_metric().iter().map(of).sum::<f64>()
    };
    for name in [
        "groups_total",
        "group_commit_seconds",
        "batch_transactions",
        "batch_certification_seconds",
        "batch_ordering_seconds",
        "payload_batches",
        "payload_transactions",
        "payload_bytes",
        "proposed_batch_age_seconds",
        "proposed_proof_wait_seconds",
        "proposed_batches_total",
        "ordered_batches_total",
        "ordered_transactions_total",
        "votes_signed_total",
        "proofs_published_total",
        "verification_seconds",
        "submitted_transactions_total",
        "call_seconds",
        "component_watermark",
        "applied_index",
        "window_granted_bytes",
        "link_up",
        "link_sent_bytes_total",
        "disk_free_bytes",
        "subscriber_cursor",
        "subscriber_attached",
        "deliveries_total",
    ] {
        let name = format!("quorum_store_{name}");
        let waiting = tokio::time::timeout(PATIENCE / 4, async {
            while value(&name) <= 0.0 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        assert!(waiting.await.is_ok(), "{name} is still zero");
    }
    for node in &nodes {
        node.shutdown().await;
    }
}

#[test]
fn listed_names_say_their_unit_and_are_sorted() {
    let listed = listed();
    assert!(listed.len() > 60);
    assert!(listed.is_sorted_by(|a, b| a.name < b.name), "sort the list");
    for Listed { name, kind, unit, help, .. } in listed {
        assert!(name.starts_with("quorum_store_"), "{name}");
        assert!(["counter", "gauge", "histogram"].contains(&kind.as_str()), "{name}: {kind}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        assert!(!help.is_empty(), "{name}");
        let stem = name.trim_end_matches("_total");
        for base in ["seconds", "bytes"] {
            assert_eq!(unit == base, stem.ends_with(base), "{name} in {unit}");
        }
    }
}

#[test]
fn the_operators_find_every_old_name_beside_the_new_one() {
    let mut expected = BTreeSet::new();
    for Listed { name, replaces, .. } in listed() {
        let name = name.trim_start_matches("quorum_store_").to_owned();
        expected.extend(replaces.into_iter().map(|old| (old, name.clone())));
    }
    assert!(expected.len() > 60, "{}", expected.len());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators.md");
    let chapter = std::fs::read_to_string(path).unwrap();
    let table = chapter.split_once("| there | here |\n|---|---|\n").unwrap().1;
    let mut found = BTreeSet::new();
    for row in table.lines().take_while(|line| line.starts_with('|')) {
        let mut names = row.split('`').skip(1).step_by(2).map(str::to_owned);
        let old = names.next().unwrap();
        found.extend(names.map(|new| (old.clone(), new)));
    }
    assert_eq!(found, expected, "the table and metrics.txt");
}

#[test]
fn every_metric_that_the_operators_are_told_of_is_there() {
    let listed: BTreeSet<String> = listed().into_iter().map(|listed| listed.name).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators.md");
    let chapter = std::fs::read_to_string(path).unwrap();
    let table = chapter.split_once("| metric | meaning |\n|---|---|\n").unwrap().1;
    let mut told = 0;
    for row in table.lines().take_while(|line| line.starts_with('|')) {
        // What follows "by" are labels.
        let cell = row.split('|').nth(1).unwrap();
        for part in cell.split(',') {
            let name = part.split('`').nth(1).unwrap();
            told += 1;
            assert!(listed.contains(&format!("quorum_store_{name}")), "{name} is not listed");
        }
    }
    assert!(told > 60, "{told}");
}

#[test]
fn dashboard_and_alerts_use_listed_metrics_only() {
    let listed: BTreeMap<String, String> =
        listed().into_iter().map(|listed| (listed.name, listed.kind)).collect();
    for file in ["quorum-store.json", "alerts.yml"] {
        let used = used(&dashboards(file));
        assert!(used.len() > 10, "{file} uses {}", used.len());
        for name in used {
            let stem = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let histogram =
                stem.and_then(|stem| listed.get(stem)).is_some_and(|k| k == "histogram");
            let plain = listed.get(&name).is_some_and(|kind| kind != "histogram");
            assert!(plain || histogram, "{file}: {name} is not in metrics.txt");
        }
    }
}

#[test]
fn names_are_found_in_queries() {
    let text = "rate(quorum_store_a_seconds_bucket{x=\"y\"}[1m]) / quorum_store_b2_total-1";
    let expected = ["quorum_store_a_seconds_bucket", "quorum_store_b2_total"];
    assert_eq!(used(text), expected.map(str::to_owned).into());
}
