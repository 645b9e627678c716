//! What became of clients' transactions, as a stream of lines: so that nobody has to poll.
//!
//! Each line is a JSON object about a group of transactions that reached one state together:
//!
//! ```json
//! {"seq":7,"state":"executed","height":12,"time_micros":1,"ids":"<64 digits each>",
//!  "latency_micros":[5]}
//! ```
//!
//! The compact form of a line has no text: little-endian, the length of what follows (u32), `seq`
//! (u64), the state's number (u8; 0 accepted, 1 certified, 2 executed, 3 expired, 4 skipped, 5 gap),
//! height (u64, 0 for none), time in microseconds (u64), lines lost (u64), the count of ids (u32),
//! the ids of 32 bytes, and for each a latency in microseconds (u32). It is also how lines are kept:
//! at full rate the text would be the largest single cost of the stream, on both ends of it.
//!
//! Lines are numbered without gaps in each life of the process, from the microsecond of its start
//! on: so numbers rise across lives too, and a client that was following continues after a restart
//! with the number it has. They are kept in a ring that is bounded in bytes. Who asks for lines
//! that are gone gets one line with the state `gap` in their place, which says how many of this
//! life were lost. Streams share the lines; a slow one delays nobody.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::sync::watch;

use crate::clock;
use crate::transaction::TransactionId;

/// Bytes of a compact line before its ids, its length included.
const HEADER_BYTES: usize = 4 + 8 + 1 + 8 + 8 + 8 + 4;

/// The number of a gap among the states.
const GAP: u8 = 5;

/// Most transactions of one line.
const IDS_PER_LINE_MAX: usize = 4096;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// Durable here in a batch.
    Accepted,
    /// Durable at a quorum.
    Certified,
    /// Executed in a block.
    Executed,
    /// Can never be executed any more.
    Expired,
    /// In a batch that was skipped.
    Skipped,
}

impl Milestone {
    /// Its name in the stream.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Certified => "certified",
            Self::Executed => "executed",
            Self::Expired => "expired",
            Self::Skipped => "skipped",
        }
    }
}

impl Milestone {
    const ALL: [Self; 5] =
        [Self::Accepted, Self::Certified, Self::Executed, Self::Expired, Self::Skipped];
}

/// Transactions that reached one state together.
#[derive(Debug, Default)]
pub struct Group {
    /// Their ids.
    pub ids: Vec<TransactionId>,
    /// For each, the time since it arrived.
    pub latency_micros: Vec<u64>,
}

impl Group {
    /// Adds one transaction.
    pub fn push(&mut self, id: TransactionId, latency_micros: u64) {
        self.ids.push(id);
        self.latency_micros.push(latency_micros);
    }
}

/// The ring of lines.
#[derive(Debug)]
pub struct Outcomes {
    ring: Mutex<Ring>,
    /// The number of the line that comes next.
    next: watch::Sender<u64>,
    /// The number of the first line of this life.
    life: u64,
}

#[derive(Debug)]
struct Ring {
    lines: VecDeque<Bytes>,
    /// Number of the oldest line kept.
    first: u64,
    bytes: usize,
    bytes_max: usize,
}

/// Lines that a stream sends next.
#[derive(Debug, PartialEq, Eq)]
pub struct Lines {
    /// The lines.
    pub lines: Vec<Bytes>,
    /// The first line after them.
    pub next: u64,
}

impl Outcomes {
    /// An empty ring of this many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self::starting_at(clock::wall().0, bytes_max)
    }

    fn starting_at(life: u64, bytes_max: usize) -> Self {
        let ring = Ring { lines: VecDeque::new(), first: life, bytes: 0, bytes_max };
        Self { ring: Mutex::new(ring), next: watch::Sender::new(life), life }
    }

    /// The number of the first line of this life: it names the life.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Tells of a group, in as many lines as it needs.
    pub fn publish(&self, milestone: Milestone, height: Option<u64>, group: &Group) {
        if group.ids.is_empty() {
            return;
        }
        let time_micros = clock::wall().0;
        let mut ring = self.ring();
        let ids = group.ids.chunks(IDS_PER_LINE_MAX);
        for (ids, latencies) in ids.zip(group.latency_micros.chunks(IDS_PER_LINE_MAX)) {
            let head = Head {
                seq: ring.next(),
                state: milestone as u8,
                height: height.unwrap_or_default(),
                time_micros,
                lost: 0,
            };
            let line = head.line(ids, latencies);
            ring.push(line);
        }
        let next = ring.next();
        drop(ring);
        self.next.send_replace(next);
    }

    /// Lines from `from` on, compact, up to about `bytes_max`; none if there are no newer ones.
    pub fn read(&self, from: u64, bytes_max: usize) -> Lines {
        let ring = self.ring();
        let mut lines = Vec::new();
        let mut next = from;
        if from > ring.next() {
            // A number of an earlier life, and the clock has gone back since.
            lines.push(gap(from, 0));
            next = ring.first;
        } else if from < ring.first {
            lines.push(gap(from, ring.first - from.max(self.life)));
            next = ring.first;
        }
        let mut bytes = 0;
        let skip = usize::try_from(next - ring.first).unwrap_or(usize::MAX);
        for line in ring.lines.iter().skip(skip) {
            if bytes > 0 && bytes + line.len() > bytes_max {
                break;
            }
            bytes += line.len();
            lines.push(line.clone());
            next += 1;
        }
        Lines { lines, next }
    }

    /// Tells when there are newer lines.
    pub fn newer(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing between two pushes can panic, so the ring is whole whoever held it.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn push(&mut self, line: Bytes) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > self.bytes_max && self.lines.len() > 1 {
            if let Some(oldest) = self.lines.pop_front() {
                self.bytes -= oldest.len();
                self.first += 1;
            }
        }
    }
}

fn gap(seq: u64, lost: u64) -> Bytes {
    Head { seq, state: GAP, height: 0, time_micros: 0, lost }.line(&[], &[])
}

/// What a compact line says before its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    seq: u64,
    state: u8,
    height: u64,
    time_micros: u64,
    lost: u64,
}

impl Head {
    fn line(&self, ids: &[TransactionId], latencies: &[u64]) -> Bytes {
        let bytes = HEADER_BYTES + ids.len() * 36;
        let mut line = BytesMut::with_capacity(bytes);
        line.put_u32_le(bytes as u32 - 4);
        line.put_u64_le(self.seq);
        line.put_u8(self.state);
        line.put_u64_le(self.height);
        line.put_u64_le(self.time_micros);
        line.put_u64_le(self.lost);
        line.put_u32_le(ids.len() as u32);
        line.extend_from_slice(ids.as_flattened());
        for latency in latencies {
            // An hour and more is an hour and more.
            line.put_u32_le(u32::try_from(*latency).unwrap_or(u32::MAX));
        }
        line.freeze()
    }
}

/// A compact line of ours as text.
pub fn text(mut line: &[u8]) -> Bytes {
    line.advance(4);
    let (seq, state, height) = (line.get_u64_le(), line.get_u8(), line.get_u64_le());
    let (time_micros, lost) = (line.get_u64_le(), line.get_u64_le());
    let count = line.get_u32_le() as usize;
    let Some(milestone) = Milestone::ALL.get(usize::from(state)) else {
        return format!("{{\"seq\":{seq},\"state\":\"gap\",\"lost\":{lost}}}\n").into();
    };
    let (ids, latencies) = line.split_at(count * 32);
    let state = milestone.name();
    let mut text = Vec::with_capacity(128 + count * 72);
    // Writing to memory cannot fail.
    let _ = write!(text, "{{\"seq\":{seq},\"state\":\"{state}\",\"height\":");
    let _ = match height {
        0 => write!(text, "null"),
        height => write!(text, "{height}"),
    };
    let _ = write!(text, ",\"time_micros\":{time_micros},\"ids\":\"");
    text.extend_from_slice(hex::encode(ids).as_bytes());
    text.extend_from_slice(b"\",\"latency_micros\":[");
    for (position, latency) in latencies.as_chunks::<4>().0.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{}", u32::from_le_bytes(*latency));
    }
    text.extend_from_slice(b"]}\n");
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(count: u8) -> Group {
        let mut group = Group::default();
        (0..count).for_each(|n| group.push([n; 32], u64::from(n) * 10));
        group
    }

    fn seqs(lines: &Lines) -> Vec<u64> {
        let parse =
            |line: &Bytes| -> serde_json::Value { serde_json::from_slice(&text(line)).unwrap() };
        lines.lines.iter().map(|line| parse(line)["seq"].as_u64().unwrap()).collect()
    }

    #[test]
    fn a_line_is_json_with_one_latency_per_id() {
        let outcomes = Outcomes::starting_at(0, 1 << 20);
        outcomes.publish(Milestone::Executed, Some(9), &group(2));
        outcomes.publish(Milestone::Accepted, None, &group(0));
        let read = outcomes.read(0, 1 << 20);
        assert_eq!((read.lines.len(), read.next), (1, 1));
        let line: serde_json::Value = serde_json::from_slice(&text(&read.lines[0])).unwrap();
        assert_eq!(line["state"], "executed");
        assert_eq!(line["height"], 9);
        assert_eq!(line["ids"], format!("{}{}", "00".repeat(32), "01".repeat(32)));
        assert_eq!(line["latency_micros"], serde_json::json!([0, 10]));
        assert!(text(&read.lines[0]).ends_with(b"\n"));
    }

    #[test]
    fn a_large_group_takes_several_lines() {
        let outcomes = Outcomes::starting_at(0, 1 << 24);
        let mut group = Group::default();
        (0..=IDS_PER_LINE_MAX).for_each(|n| group.push([n as u8; 32], 0));
        outcomes.publish(Milestone::Certified, None, &group);
        assert_eq!(seqs(&outcomes.read(0, 1 << 24)), [0, 1]);
    }

    #[test]
    fn reads_continue_where_they_stopped_and_are_bounded() {
        let outcomes = Outcomes::starting_at(0, 1 << 20);
        (0..5).for_each(|_| outcomes.publish(Milestone::Accepted, None, &group(1)));
        let first = outcomes.read(0, 1);
        assert_eq!((seqs(&first), first.next), (vec![0], 1));
        assert_eq!(seqs(&outcomes.read(first.next, 1 << 20)), [1, 2, 3, 4]);
        let none = outcomes.read(5, 1 << 20);
        assert_eq!((none.lines.len(), none.next), (0, 5));
    }

    #[test]
    fn numbers_rise_across_lives_and_lines_of_an_earlier_one_do_not_count_as_lost() {
        let earlier = Outcomes::new(1 << 20);
        earlier.publish(Milestone::Accepted, None, &group(1));
        let from = earlier.read(0, 1 << 20).next;
        let outcomes = Outcomes::starting_at(earlier.life() + 1_000_000, 1 << 20);
        outcomes.publish(Milestone::Accepted, None, &group(1));
        let read = outcomes.read(from, 1 << 20);
        let gap: serde_json::Value = serde_json::from_slice(&text(&read.lines[0])).unwrap();
        assert_eq!((&gap["state"], &gap["lost"]), (&"gap".into(), &0.into()));
        assert_eq!(seqs(&read)[1], outcomes.life());
    }

    #[test]
    fn what_is_lost_is_said_and_so_is_a_new_life() {
        let outcomes = Outcomes::starting_at(0, 400);
        (0..10).for_each(|_| outcomes.publish(Milestone::Accepted, None, &group(1)));
        let read = outcomes.read(0, 1 << 20);
        let gap: serde_json::Value = serde_json::from_slice(&text(&read.lines[0])).unwrap();
        assert_eq!((&gap["state"], &gap["seq"]), (&"gap".into(), &0.into()));
        let lost = gap["lost"].as_u64().unwrap();
        assert_eq!(seqs(&read)[1], lost);
        assert_eq!(read.next, 10);
        // A client of an earlier life asks for a number that does not exist yet.
        let read = outcomes.read(1000, 1 << 20);
        let gap: serde_json::Value = serde_json::from_slice(&text(&read.lines[0])).unwrap();
        assert_eq!((&gap["state"], &gap["lost"]), (&"gap".into(), &0.into()));
        assert_eq!(read.next, 10);
    }
}
