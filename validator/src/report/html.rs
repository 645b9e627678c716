//! `report.html`: a run on one page, for somebody who was not there. No scripts, nothing from
//! elsewhere; it follows the light or dark setting of the reader and prints in black on white.

use std::fmt::Write as _;

use super::chart::short;
use super::{Report, ValidatorReport, charts};

const STYLE: &str = include_str!("style.css");
/// Violations may carry the ends of logs; what is cut is in `report.json`.
const VIOLATION_CHARACTERS_MAX: usize = 4_000;
const VIOLATIONS_MAX: usize = 100;

/// The page.
pub fn page(report: &Report) -> String {
    let good = report.violations.is_empty();
    let verdict = if good { "everything held" } else { "violated" };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>quorum-store testnet: {verdict}</title><style>{STYLE}</style></head><body>\
         <header><h1>quorum-store testnet</h1>\
         <p class=\"verdict {}\">{}</p></header>\n",
        if good { "good" } else { "bad" },
        match report.violations.len() {
            0 => "everything held".to_owned(),
            1 => "1 violation".to_owned(),
            count => format!("{count} violations"),
        },
    );
    introduction(&mut page, report);
    numbers(&mut page, report);
    violations(&mut page, report);
    for (heading, figures) in charts::sections(report) {
        let _ = write!(page, "<section><h2>{heading}</h2><div class=\"figures\">");
        for figure in figures {
            let _ = write!(
                page,
                "<figure{}><h3>{}</h3>{}{}<figcaption>{}</figcaption></figure>",
                if figure.chart.wide { " class=\"across\"" } else { "" },
                escape(&figure.chart.title),
                figure.chart.svg(),
                figure.chart.legend(),
                figure.meaning,
            );
        }
        page.push_str("</div></section>\n");
    }
    table(&mut page, &report.per_validator);
    page.push_str(WORDS);
    page.push_str("</body></html>\n");
    page
}

/// Text as it may stand in the page, in attributes too.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Not allowed in a page, and of no use in one.
            control if control.is_control() && control != '\n' && control != '\t' => {
                escaped.push('\u{fffd}');
            }
            other => escaped.push(other),
        }
    }
    escaped
}

fn introduction(page: &mut String, report: &Report) {
    let _ = write!(
        page,
        "<p>{} validators ran on one machine, each a process of its own with its own data \
         directory and encrypted links to the others. Clients sent transactions to them over HTTP \
         for {:.0} seconds; every accepted transaction was then followed until it was executed. \
         Afterwards all validators were asked for their state, stopped, and their data directories \
         checked offline.</p>",
        report.validators, report.duration_s,
    );
    let conditions = &report.details.conditions;
    if !conditions.is_empty() {
        page.push_str("<p class=\"conditions\">");
        for (name, value) in conditions {
            let _ = write!(page, "<span>{name} <b>{}</b></span> ", escape(value));
        }
        page.push_str("</p>\n");
    }
}

fn numbers(page: &mut String, report: &Report) {
    page.push_str("<section class=\"numbers\">");
    let mut say = |name: &str, value: String, note: &str| {
        let _ = write!(page, "<div><b>{value}</b><span>{name}</span><small>{note}</small></div>");
    };
    let executed = whole(report.executed_transactions);
    let (offered, tps) = (short(report.offered_tps.round()), short(report.executed_tps.round()));
    say("executed per second", tps, &format!("transactions, of {offered} offered"));
    say("executed in all", executed, "distinct transactions, with warm-up and drain");
    say("lost", whole(report.lost_transactions), "accepted, and without any outcome");
    let state = match (report.agreement, report.blocks) {
        (true, Some(height)) => ("equal".to_owned(), format!("at every validator, block {height}")),
        (true, None) => ("equal".to_owned(), "at every validator".to_owned()),
        (false, _) => ("not shown equal".to_owned(), "see the violations".to_owned()),
    };
    say("state", state.0, &state.1);
    let latency = report.latency_ms;
    let states = [
        ("until accepted", latency.accepted, "durable at its validator"),
        ("until certified", latency.certified, "durable at a quorum"),
        ("until executed", latency.executed, "ordered and executed"),
    ];
    for (name, quantiles, note) in states {
        if let Some(found) = quantiles {
            let worst = format!("{note}; 99 of 100 within {}", milliseconds(found.p99));
            say(name, milliseconds(found.p50), &format!("median; {worst}"));
        }
    }
    if let Some(micros) = report.cpu_us_per_transaction {
        let value = format!("{} µs", short(micros));
        say("processor time per transaction", value, "all validators together");
    }
    page.push_str("</section>\n");
}

fn violations(page: &mut String, report: &Report) {
    page.push_str("<section><h2>What should have held</h2>");
    if report.violations.is_empty() {
        page.push_str(
            "<p>Every validator executed the same transactions in the same order; every accepted \
             transaction was executed exactly once or has another final outcome; no validator \
             failed; every data directory passed its check.</p></section>\n",
        );
        return;
    }
    page.push_str("<ol class=\"violations\">");
    for violation in report.violations.iter().take(VIOLATIONS_MAX) {
        let cut: String = violation.chars().take(VIOLATION_CHARACTERS_MAX).collect();
        let more =
            if cut.len() < violation.len() { " … (all of it is in report.json)" } else { "" };
        let _ = write!(page, "<li><pre>{}{more}</pre></li>", escape(&cut));
    }
    page.push_str("</ol>");
    if report.violations.len() > VIOLATIONS_MAX {
        let more = report.violations.len() - VIOLATIONS_MAX;
        let _ = write!(page, "<p>{more} more are in report.json.</p>");
    }
    page.push_str("</section>\n");
}

fn table(page: &mut String, validators: &[ValidatorReport]) {
    page.push_str(
        "<section><h2>Each validator</h2><div class=\"wide\"><table><thead><tr><th>validator</th>\
         <th>groups</th><th>fsyncs</th><th>fsyncs of consensus</th><th>batches per group</th>\
         <th>group commit, median</th><th>group commit, 99 of 100</th><th>written</th>\
         <th>content</th><th>written / content</th><th>processor time</th>\
         <th>memory, most</th><th>restarts</th></tr></thead><tbody>",
    );
    let some = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    for (index, validator) in validators.iter().enumerate() {
        let _ = write!(page, "<tr><th>{index}</th>");
        let cells = [
            some(validator.groups.map(whole)),
            some(validator.fsyncs.map(whole)),
            some(validator.consensus_fsyncs.map(whole)),
            some(validator.batches_per_group_mean.map(|mean| format!("{mean:.1}"))),
            some(validator.group_commit_ms_p50.map(milliseconds)),
            some(validator.group_commit_ms_p99.map(milliseconds)),
            some(validator.bytes_written.map(bytes)),
            some(validator.payload_bytes.map(bytes)),
            some(validator.write_amplification.map(|ratio| format!("{ratio:.2}"))),
            some(validator.cpu_s.map(|seconds| format!("{seconds:.1} s"))),
            some(validator.rss_bytes_max.map(bytes)),
            validator.restarts.to_string(),
        ];
        for cell in cells {
            let _ = write!(page, "<td>{cell}</td>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div></section>\n");
}

const WORDS: &str = "<section><h2>Words</h2><dl>\
    <dt>accepted</dt><dd>The transaction sits in a batch that is durable (written and fsynced) at \
    the validator that took it; the client got its answer.</dd>\
    <dt>certified</dt><dd>Validators with a quorum of the voting power have signed that the batch \
    is durable at them: its proof of store exists.</dd>\
    <dt>executed</dt><dd>Consensus has ordered the batch, and the transaction was executed.</dd>\
    <dt>group commit</dt><dd>Everything that arrived while the disk was busy is written as one \
    group with one fsync. Nothing is signed before its group is durable.</dd>\
    <dt>written / content</dt><dd>Bytes handed to the storage by bytes of batches and payloads: \
    what the bookkeeping adds.</dd></dl></section>";

fn milliseconds(value: f64) -> String {
    match value {
        _ if value >= 10_000.0 => format!("{:.1} s", value / 1_000.0),
        _ if value >= 100.0 => format!("{value:.0} ms"),
        _ if value >= 10.0 => format!("{value:.1} ms"),
        _ => format!("{value:.2} ms"),
    }
}

fn bytes(value: u64) -> String {
    let value = value as f64;
    match value {
        _ if value >= 1e9 => format!("{:.2} GB", value / 1e9),
        _ if value >= 1e6 => format!("{:.1} MB", value / 1e6),
        _ if value >= 1e3 => format!("{:.1} kB", value / 1e3),
        _ => format!("{value:.0} B"),
    }
}

/// Digits in groups of three.
fn whole(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[path = "html_tests.rs"]
mod tests;
