//! Links and windows, one series per peer: the label is the first 8 hex digits of its key.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::instruments::{Register, raise, set};
use crate::sequencer::status::WindowStatus;
use crate::transport::{Class, LinkStatus, Refusal};
use crate::types::Author;

/// The series of one peer, made once.
struct Peer {
    label: String,
    up: IntGauge,
    ups: IntCounter,
    second_links: IntCounter,
    rtt_seconds: Gauge,
    sent_bytes: IntCounter,
    received_bytes: IntCounter,
    queue_bytes: [(Class, IntGauge); 2],
    mtu_bytes: IntGauge,
    black_holes: IntCounter,
    /// Granted, used, stored; bytes and batches of each.
    windows: [(IntGauge, IntGauge); 3],
}

pub(in crate::engine) struct Links {
    up: IntGauge,
    families: Families,
    peers: RwLock<BTreeMap<Author, Arc<Peer>>>,
}

/// What each peer gets a series of.
struct Families {
    refusals: IntCounterVec,
    up: IntGaugeVec,
    ups: IntCounterVec,
    second_links: IntCounterVec,
    rtt: GaugeVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    queued: IntGaugeVec,
    mtu: IntGaugeVec,
    holes: IntCounterVec,
    /// Granted, used, stored; bytes and batches of each.
    windows: Vec<(IntGaugeVec, IntGaugeVec)>,
}

impl Families {
    fn new(make: &Register<'_>) -> Result<Self, prometheus::Error> {
        let by_peer = &["peer"];
        let mut windows = Vec::new();
        for (name, what) in [
            ("granted", "What this peer grants us"),
            ("used", "What we used of what this peer grants us"),
            ("stored", "What we store of this peer"),
        ] {
            let gauge = |unit: &str| {
                let help = format!("{what}, {unit}.");
                make.gauges(&format!("window_{name}_{unit}"), &help, by_peer)
            };
            windows.push((gauge("bytes")?, gauge("batches")?));
        }
        Ok(Self {
            refusals: make.counters_by(
                "link_refusals_total",
                "Links refused or closed for a reason, by us or by the peer.",
                &["peer", "by", "reason"],
            )?,
            up: make.gauges("link_up", "1 while the link to this peer is up.", by_peer)?,
            ups: make.counters_by("link_ups_total", "Times the link came up.", by_peer)?,
            second_links: make.counters_by(
                "link_second_links_total",
                "Links of this key refused because one was alive: two processes run with one key.",
                by_peer,
            )?,
            rtt: make.reals("link_rtt_seconds", "Smoothed round trip time.", "peer")?,
            sent: make.counters_by("link_sent_bytes_total", "Bytes written.", by_peer)?,
            received: make.counters_by("link_received_bytes_total", "Bytes read.", by_peer)?,
            queued: make.gauges(
                "link_queue_bytes",
                "Bytes that wait to be sent, by class.",
                &["peer", "class"],
            )?,
            mtu: make.gauges("link_mtu_bytes", "Size of datagrams; 0 without.", by_peer)?,
            holes: make.counters_by(
                "link_black_holes_total",
                "Times large datagrams were lost and small ones used instead.",
                by_peer,
            )?,
            windows,
        })
    }

    fn series(&self, peer: &Author) -> Peer {
        let label = label(peer);
        let by = &[label.as_str()];
        let window = |index: usize| {
            let (bytes, batches) = &self.windows[index];
            (bytes.with_label_values(by), batches.with_label_values(by))
        };
        let queue = |class: Class| {
            let name = class.to_string();
            (class, self.queued.with_label_values(&[label.as_str(), name.as_str()]))
        };
        // There from the start, so that alerts see it rise.
        self.refusals.with_label_values(&[label.as_str(), "us", "abuse"]);
        Peer {
            up: self.up.with_label_values(by),
            ups: self.ups.with_label_values(by),
            second_links: self.second_links.with_label_values(by),
            rtt_seconds: self.rtt.with_label_values(by),
            sent_bytes: self.sent.with_label_values(by),
            received_bytes: self.received.with_label_values(by),
            queue_bytes: Class::ALL.map(queue),
            mtu_bytes: self.mtu.with_label_values(by),
            black_holes: self.holes.with_label_values(by),
            windows: [window(0), window(1), window(2)],
            label: label.clone(),
        }
    }
}

impl Links {
    pub fn new(
        registry: &Registry,
        peers: impl Iterator<Item = Author>,
    ) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        let families = Families::new(&make)?;
        let up = make.gauge("links_up", "Links that are up.")?;
        let links = Self { up, families, peers: RwLock::default() };
        links.know(peers);
        Ok(links)
    }

    /// Peers of an epoch get series; those of former ones keep theirs.
    pub fn know(&self, peers: impl Iterator<Item = Author>) {
        let mut known = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        for peer in peers {
            known.entry(peer).or_insert_with(|| Arc::new(self.families.series(&peer)));
        }
    }

    fn peer(&self, peer: &Author) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    /// A link was refused or closed. Keys outside the committee get no series.
    pub fn refused(&self, peer: &Author, by_us: bool, reason: Refusal) {
        if let Some(peer) = self.peer(peer) {
            let by = if by_us { "us" } else { "peer" };
            let labels = [peer.label.as_str(), by, reason_name(reason)];
            self.families.refusals.with_label_values(&labels).inc();
        }
    }

    pub fn observe_links(&self, links: &[LinkStatus]) {
        for link in links {
            let Some(peer) = self.peer(&link.peer) else { continue };
            peer.up.set(i64::from(link.up));
            raise(&peer.ups, link.ups);
            raise(&peer.second_links, link.second_links);
            peer.rtt_seconds.set(link.rtt.map_or(0.0, |rtt| rtt.as_secs_f64()));
            raise(&peer.sent_bytes, link.bytes_sent);
            raise(&peer.received_bytes, link.bytes_received);
            for (class, gauge) in &peer.queue_bytes {
                set(gauge, *link.queue_bytes.get(*class) as u64);
            }
            peer.mtu_bytes.set(i64::from(link.current_mtu));
            raise(&peer.black_holes, link.black_holes);
        }
    }

    pub fn observe_windows(&self, windows: &[WindowStatus]) {
        set(&self.up, windows.iter().filter(|window| window.linked).count() as u64);
        for window in windows {
            let Some(peer) = self.peer(&window.peer) else { continue };
            let usages = [window.granted, window.used, window.stored];
            for ((bytes, batches), usage) in peer.windows.iter().zip(usages) {
                set(bytes, usage.bytes);
                set(batches, usage.batches);
            }
        }
    }
}

/// The first 8 hex digits: enough to tell a committee's members apart.
pub(super) fn label(peer: &Author) -> String {
    let mut text = peer.to_string();
    text.truncate(8);
    text
}

const fn reason_name(reason: Refusal) -> &'static str {
    match reason {
        Refusal::ChainMismatch => "chain_mismatch",
        Refusal::CommitteeMismatch => "committee_mismatch",
        Refusal::Malformed => "malformed",
        Refusal::Version => "version",
        Refusal::UnknownKey => "unknown_key",
        Refusal::SecondLink => "second_link",
        Refusal::Abuse => "abuse",
        Refusal::Oversized => "oversized",
        Refusal::WrongDirection => "wrong_direction",
        Refusal::Restarted => "restarted",
        Refusal::Timeout => "timeout",
        Refusal::Unknown(_) => "unknown",
    }
}
