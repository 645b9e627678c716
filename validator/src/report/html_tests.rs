use super::super::details::{Counted, Details, GroupDistributions, LatencyCurve};
use super::super::details::{ProcessSample, Sample};
use super::*;
use crate::load::latency::{LatencyQuantiles, Quantiles};

fn samples(count: u64, validators: usize) -> Vec<Sample> {
    let sample = |second: u64| Sample {
        at: second as f64,
        offered: second * 20_000,
        accepted: second * 19_900,
        executed: second * 19_800,
        processes: vec![
            ProcessSample {
                cpu_seconds: Some(second as f64 / 3.0),
                rss_bytes: Some(90 << 20)
            };
            validators
        ],
    };
    (0..count).map(sample).collect()
}

fn run(seconds: u64, validators: usize) -> Report {
    let counted = Counted {
        bounds: (0..52).map(|power| 1e-5 * 1.25_f64.powi(power)).collect(),
        counts: (0..53).collect(),
    };
    let groups = GroupDistributions {
        commit_seconds: counted.clone(),
        bytes: counted.clone(),
        batches: counted,
    };
    let curve = LatencyCurve {
        quantiles: (0..50).map(|i| (f64::from(i) / 50.0, f64::from(i) + 1.0)).collect(),
        shares: (1..50).map(|i| (f64::from(i), 0.02)).collect(),
    };
    let quantiles = Some(Quantiles { p50: 11.0, p99: 222.0, max: 3_333.0 });
    Report {
        validators: validators as u32,
        latency_ms: LatencyQuantiles { executed: quantiles, ..LatencyQuantiles::default() },
        per_validator: vec![
            ValidatorReport { fsyncs: Some(1_234), ..Default::default() };
            validators
        ],
        details: Details {
            conditions: vec![("rate", "20000/s".to_owned())],
            window: Some((2.0, seconds as f64)),
            samples: samples(seconds, validators),
            latencies: vec![("executed", curve)],
            groups: vec![Some(groups); validators],
        },
        ..Report::default()
    }
}

/// Every element that was opened is closed, in order.
fn assert_balanced(page: &str) {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.split_ascii_whitespace().next().unwrap();
        let empty = ["!doctype", "meta"].contains(&name) || tag.ends_with('/');
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "in {tag:?}");
        } else if !empty {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn text_is_escaped_wherever_it_comes_from() {
    assert_eq!(
        escape("<a b=\"c\" d='e'>&\u{1b}[0m"),
        "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;\u{fffd}[0m"
    );
    let mut report = run(10, 1);
    report.violations = vec!["</pre><script>alert(1)</script>".to_owned()];
    report.details.conditions[0].1 = "<b>".to_owned();
    let page = page(&report);
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    assert!(page.contains("<b>&lt;b&gt;</b>"));
    assert_balanced(&page);
}

#[test]
fn a_run_without_any_measurement_still_has_a_page() {
    let page = page(&Report::default());
    assert_balanced(&page);
    assert_eq!(page.matches("nothing was measured").count(), 8);
    assert!(!page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn one_sample_and_a_validator_that_says_nothing_are_fine() {
    let mut report = run(1, 2);
    report.details.groups[1] = None;
    report.details.samples[0].processes[0] = ProcessSample::default();
    assert_balanced(&page(&report));
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_is_bounded() {
    let mut report = run(2_048, 64);
    report.violations = vec!["x".repeat(1 << 20); 1_000];
    let page = page(&report);
    assert_balanced(&page);
    for foreign in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.len() < 2 << 20, "{} bytes", page.len());
}

#[test]
fn the_page_says_what_the_report_says() {
    let mut report = run(30, 4);
    report.executed_transactions = 600_000;
    report.executed_tps = 19_876.0;
    let good = page(&report);
    for text in ["everything held", "19.88k", "600\u{202f}000", "11.0 ms", "222 ms", "1\u{202f}234"]
    {
        assert!(good.contains(text), "{text}");
    }
    report.violations = vec!["validator 2 failed".to_owned()];
    let bad = page(&report);
    assert!(bad.contains("1 violation<") && bad.contains("validator 2 failed"));
    assert!(!bad.contains("everything held"));
}
