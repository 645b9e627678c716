//! Which charts the page has, and what each of them means.

use super::Report;
use super::chart::{Axis, Chart, Line, nines};
use super::details::{Counted, Details, GroupDistributions, ProcessSample, Sample};

/// A chart and its explanation.
pub struct Figure {
    /// The chart.
    pub chart: Chart,
    /// For somebody who sees it for the first time.
    pub meaning: &'static str,
}

/// Headings, each with its figures.
pub fn sections(report: &Report) -> [(&'static str, Vec<Figure>); 4] {
    let details = &report.details;
    [
        ("Throughput", vec![throughput(details)]),
        ("Latency", vec![percentiles(details), shares(details)]),
        ("Group commit", groups(details)),
        ("Processor and memory", vec![processor(details), memory(details)]),
    ]
}

fn time() -> Axis {
    Axis::linear("seconds since the load began")
}

fn throughput(details: &Details) -> Figure {
    let line = |name: &str, count: fn(&Sample) -> u64| Line {
        name: name.to_owned(),
        points: rates(&details.samples, |sample| Some(count(sample) as f64)),
    };
    let lines = vec![
        line("offered", |sample| sample.offered),
        line("accepted", |sample| sample.accepted),
        line("executed", |sample| sample.executed),
    ];
    Figure {
        chart: Chart {
            title: "Transactions per second".to_owned(),
            x: time(),
            y: Axis::linear("transactions per second"),
            lines,
            band: details.window,
            wide: true,
        },
        meaning: "Each point is the average since the point before it, about one second. \
            <em>Offered</em>: sent by the clients. <em>Accepted</em>: answered as durable. \
            <em>Executed</em>: distinct transactions executed. The shaded part is the window that \
            the numbers above are taken from; before it lies the warm-up, after it what was still \
            under way. Healthy: the three lines lie on each other.",
    }
}

fn percentiles(details: &Details) -> Figure {
    let lines = details.latencies.iter().map(|(name, curve)| Line {
        name: (*name).to_owned(),
        points: curve.quantiles.iter().map(|(share, ms)| (nines(*share), *ms)).collect(),
    });
    Figure {
        chart: Chart {
            title: "Latency by percentile".to_owned(),
            x: Axis::percentiles("percent of transactions"),
            y: Axis::log("milliseconds (logarithmic)"),
            lines: lines.collect(),
            band: None,
            wide: false,
        },
        meaning: "From the arrival of a transaction at its validator to each state. Read it so: at \
            99 on the horizontal axis, 99 of 100 transactions were at least as fast as the line. \
            Lower is better; a line that climbs steeply at the right has a slow tail. Transactions \
            sent inside the window count, however late they were done.",
    }
}

fn shares(details: &Details) -> Figure {
    let lines = details.latencies.iter().map(|(name, curve)| Line {
        name: (*name).to_owned(),
        points: percent(curve.shares.clone()),
    });
    Figure {
        chart: Chart {
            title: "Latency histogram".to_owned(),
            x: Axis::log("milliseconds (logarithmic)"),
            y: Axis::linear("percent of transactions"),
            lines: lines.collect(),
            band: None,
            wide: false,
        },
        meaning: "The same latencies, as the share of transactions in each range; ranges grow by a \
            fifth from one to the next. A narrow peak is a steady system; several peaks are several \
            kinds of waiting.",
    }
}

fn groups(details: &Details) -> Vec<Figure> {
    let lines = |of: fn(&GroupDistributions) -> &Counted, factor: f64| {
        let each = details.groups.iter().enumerate();
        let line = each.filter_map(|(index, groups)| {
            let shares = of(groups.as_ref()?).shares();
            let points = shares.into_iter().map(|(bound, share)| (bound * factor, share));
            Some(Line { name: format!("validator {index}"), points: percent(points.collect()) })
        });
        line.collect::<Vec<_>>()
    };
    let chart = |title: &str, x: &str, wide, lines| Chart {
        title: title.to_owned(),
        x: Axis::log(x),
        y: Axis::linear("percent of groups"),
        lines,
        band: None,
        wide,
    };
    vec![
        Figure {
            chart: chart(
                "Time of a group commit",
                "milliseconds (logarithmic)",
                false,
                lines(|groups| &groups.commit_seconds, 1_000.0),
            ),
            meaning: "How long it took to make one group durable: one write and its fsync. Each \
                line is one validator, over its whole life. This is the part of every latency that \
                belongs to the disk; a second peak far to the right is a disk that stalls.",
        },
        Figure {
            chart: chart(
                "Size of a group",
                "bytes (logarithmic)",
                false,
                lines(|groups| &groups.bytes, 1.0),
            ),
            meaning: "Bytes that one fsync made durable. While one group is on its way to the disk \
                the next one fills: under load groups grow, and the fsync is shared by more.",
        },
        Figure {
            chart: chart(
                "Batches in a group",
                "batches (logarithmic)",
                true,
                lines(|groups| &groups.batches, 1.0),
            ),
            meaning: "Batches, own and of others, that one fsync made durable; groups without a \
                batch hold proofs, payloads and commits, and are counted at 1 together with groups \
                of one. The mark is the upper end of a range: 4 means 3 or 4.",
        },
    ]
}

fn processor(details: &Details) -> Figure {
    let cpu = |process: &ProcessSample| process.cpu_seconds;
    let lines = by_validator(details, |index| {
        rates(&details.samples, |sample| sample.processes.get(index).and_then(cpu))
    });
    Figure {
        chart: Chart {
            title: "Processor time".to_owned(),
            x: time(),
            y: Axis::linear("processors in use"),
            lines,
            band: details.window,
            wide: false,
        },
        meaning: "Processor time by time passed: 1 is one processor fully in use. Clients and \
            validators share the machine, so the sum of the lines stays below its number of \
            processors.",
    }
}

fn memory(details: &Details) -> Figure {
    let lines = by_validator(details, |index| {
        let resident = |sample: &Sample| {
            let bytes = sample.processes.get(index)?.rss_bytes?;
            Some((sample.at, bytes as f64 / 1e6))
        };
        details.samples.iter().filter_map(resident).collect()
    });
    Figure {
        chart: Chart {
            title: "Memory".to_owned(),
            x: time(),
            y: Axis::linear("resident, MB"),
            lines,
            band: details.window,
            wide: false,
        },
        meaning: "Resident memory of each process. It climbs while caches and write buffers fill \
            and should level off; a line that climbs for the whole run needs a longer run.",
    }
}

fn by_validator(details: &Details, points: impl Fn(usize) -> Vec<(f64, f64)>) -> Vec<Line> {
    let count = details.samples.iter().map(|sample| sample.processes.len()).max().unwrap_or(0);
    let line = |index| Line { name: format!("validator {index}"), points: points(index) };
    (0..count).map(line).collect()
}

/// Differences by time; a count that fell began anew, as after a restart.
fn rates(samples: &[Sample], count: impl Fn(&Sample) -> Option<f64>) -> Vec<(f64, f64)> {
    let pairs = samples.iter().zip(samples.iter().skip(1));
    let rate = |(before, after): (&Sample, &Sample)| {
        let passed = after.at - before.at;
        let gained = (count(after)? - count(before)?).max(0.0);
        (passed > 0.0).then(|| (after.at, gained / passed))
    };
    pairs.filter_map(rate).collect()
}

fn percent(shares: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    shares.into_iter().map(|(at, share)| (at, share * 100.0)).collect()
}
